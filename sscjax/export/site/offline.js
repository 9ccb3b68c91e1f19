// Service worker: after the first visit the page works without a network. The exporter writes SITE in
// front: a version made of all content, and the SHA-256 of each file.

// Several exports may stand on one server, each in a folder of its own.
const FOLDER = `sscjax ${new URL("./", self.location).pathname}`;
const NAME = `${FOLDER} ${SITE.version}`;

self.addEventListener("install", (event) => {
  event.waitUntil(keep().then(() => self.skipWaiting()));
});

self.addEventListener("activate", (event) => {
  event.waitUntil(forget().then(() => self.clients.claim()));
});

self.addEventListener("fetch", (event) => {
  event.respondWith(answer(event.request));
});

/** Keep all files or none: while one is missing or another one, an earlier export stays in use. */
async function keep() {
  try {
    const cache = await caches.open(NAME);
    await Promise.all(Object.entries(SITE.files).map((entry) => keepOne(cache, ...entry)));
  } catch (error) {
    await caches.delete(NAME);
    throw error;
  }
}

async function keepOne(cache, name, sha256) {
  // Past the browser's own cache, which may hold an earlier export's files.
  const response = await fetch(name, { cache: "no-cache" });
  if (!response.ok) throw new Error(`${name}: the server says ${response.status}`);
  const content = await response.arrayBuffer();
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", content));
  const found = Array.from(digest, (byte) => byte.toString(16).padStart(2, "0")).join("");
  if (found !== sha256) throw new Error(`${name} is not the exported file`);
  const type = response.headers.get("Content-Type");
  await cache.put(name, new Response(content, type ? { headers: { "Content-Type": type } } : {}));
}

async function forget() {
  const earlier = (await caches.keys()).filter((name) => name.startsWith(`${FOLDER} `) && name !== NAME);
  await Promise.all(earlier.map((name) => caches.delete(name)));
}

async function answer(request) {
  // A folder's page is asked for by either name.
  const url = request.url.replace(/\/index\.html(?=$|[?#])/, "/");
  const kept = await caches.match(url, { cacheName: NAME, ignoreSearch: true });
  return kept ?? fetch(request);
}
