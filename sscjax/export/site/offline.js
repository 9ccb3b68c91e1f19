// Service worker: after the first visit the page works without a network. The exporter writes SITE,
// the files' names and a version made of their content, in front.

const NAME = `sscjax-${SITE.version}`;

self.addEventListener("install", (event) => {
  event.waitUntil(keep().then(() => self.skipWaiting()));
});

self.addEventListener("activate", (event) => {
  event.waitUntil(forget().then(() => self.clients.claim()));
});

self.addEventListener("fetch", (event) => {
  event.respondWith(answer(event.request));
});

async function keep() {
  const cache = await caches.open(NAME);
  // Past the browser's own cache, which may hold an earlier export's files.
  await cache.addAll(SITE.files.map((name) => new Request(name, { cache: "no-cache" })));
}

async function forget() {
  const own = new URL("./", self.location).pathname;
  for (const name of await caches.keys()) {
    if (!name.startsWith("sscjax-") || name === NAME) continue;
    // Other exports of this server keep their own.
    const kept = await (await caches.open(name)).keys();
    if (kept.every(({ url }) => inside(new URL(url).pathname, own))) await caches.delete(name);
  }
}

const inside = (path, folder) => path.startsWith(folder) && !path.slice(folder.length).includes("/");

async function answer(request) {
  const cache = await caches.open(NAME);
  return (await cache.match(request, { ignoreSearch: true })) ?? fetch(request);
}
