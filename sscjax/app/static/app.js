// What the pages cannot do without a script: follow long work, order the classes, send images.
import { followWork } from "./follow.js";
import { orderClasses } from "./order.js";
import { sendImages } from "./send.js";

followWork();
orderClasses();
sendImages();
