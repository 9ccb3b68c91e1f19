// Service worker: after the first visit the page works without a network. The exporter writes SITE in
// front: a version made of all content, and the SHA-256 of each file.

// A server may have several exports, each in a folder of its own.
const FOLDER = `sscjax ${new URL("./", self.location).pathname}`;
const NAME = `${FOLDER} ${SITE.version}`;

self.addEventListener("install", (event) => {
  event.waitUntil(store().then(() => self.skipWaiting()));
});

self.addEventListener("activate", (event) => {
  event.waitUntil(forget().then(() => self.clients.claim()));
});

self.addEventListener("fetch", (event) => {
  event.respondWith(respond(event.request));
});

/** Store all files or none: while one is missing or has other content, the earlier export stays in use. */
async function store() {
  try {
    const cache = await caches.open(NAME);
    await Promise.all(Object.entries(SITE.files).map((entry) => storeOne(cache, ...entry)));
  } catch (error) {
    await caches.delete(NAME);
    throw error;
  }
}

async function storeOne(cache, name, sha256) {
  // Not from the browser's own cache, which may hold files of an earlier export.
  const response = await fetch(name, { cache: "no-cache" });
  if (!response.ok) throw new Error(`${name}: the server says ${response.status}`);
  const content = await response.arrayBuffer();
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", content));
  const actual = Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
  if (actual !== sha256) throw new Error(`${name} is not the exported file`);
  const type = response.headers.get("Content-Type");
  await cache.put(name, new Response(content, type ? { headers: { "Content-Type": type } } : {}));
}

async function forget() {
  const earlier = (await caches.keys()).filter((name) => name.startsWith(`${FOLDER} `) && name !== NAME);
  await Promise.all(earlier.map((name) => caches.delete(name)));
}

async function respond(request) {
  // A folder's page is requested by either name.
  const url = request.url.replace(/\/index\.html(?=$|[?#])/, "/");
  const stored = await caches.match(url, { cacheName: NAME, ignoreSearch: true });
  return stored ?? fetch(request);
}
