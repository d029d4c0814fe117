// Keeps a page up to date: listens for changes and asks the server for the changed part, as HTML it escaped itself.
// Nothing a host said is read here. Without this file the pages can be read all the same.
"use strict";

const REFRESH_MS = 500;

// One event stream a page, and none while nobody looks: a browser opens six connections to one server.
function listen(url, on) {
  let source = null;
  let lastId = "";
  let isOver = false;
  const open = () => {
    const place = new URL(url, location.href);
    if (lastId) place.searchParams.set("after", lastId);
    source = new EventSource(place);
    for (const [name, react] of Object.entries(on)) {
      source.addEventListener(name, (event) => {
        lastId = event.lastEventId || lastId;
        react(event);
      });
    }
    source.addEventListener("end", () => {
      isOver = true;
      source.close();
    });
  };
  document.addEventListener("visibilitychange", () => {
    if (isOver) return;
    if (document.hidden) {
      source.close();
    } else if (source.readyState === EventSource.CLOSED) {
      open();
    }
  });
  open();
}

// Calls `work` soon, never twice at once and not more often than every REFRESH_MS.
function paced(work) {
  let isWanted = false;
  let isBusy = false;
  const run = async () => {
    if (isBusy || !isWanted) return;
    isBusy = true;
    isWanted = false;
    try {
      await work();
    } catch {
      isWanted = true;
    }
    setTimeout(() => {
      isBusy = false;
      run();
    }, REFRESH_MS);
  };
  return () => {
    isWanted = true;
    run();
  };
}

async function parts(url) {
  const response = await fetch(url, { headers: { Accept: "text/html" }, cache: "no-store" });
  if (!response.ok) throw new Error(String(response.status));
  return response;
}

function watchInvocation(live) {
  const refresh = paced(async () => {
    const url = new URL(location.href);
    url.searchParams.set("fragment", "true");
    const html = await (await parts(url)).text();
    const fresh = new DOMParser().parseFromString(html, "text/html").getElementById("live");
    const shown = document.getElementById("live");
    if (fresh && !shown.contains(document.activeElement)) shown.replaceChildren(...fresh.childNodes);
    else if (fresh) replaceAllBut(shown, fresh, document.activeElement);
  });
  listen(live.dataset.events, { invocation: refresh, end: refresh });
}

// Leaves the part alone in which somebody is typing.
function replaceAllBut(shown, fresh, active) {
  const old = [...shown.children];
  const next = [...fresh.children];
  old.forEach((element, n) => {
    if (next[n] && !element.contains(active)) element.replaceWith(next[n]);
  });
}

function followOutput(outputs) {
  const panes = [...outputs.querySelectorAll("pre[data-stream]")];
  const extend = paced(async () => {
    for (const pane of panes) await extendPane(outputs, pane);
  });
  listen(outputs.dataset.events, { output: extend, attempt: () => location.reload(), end: () => location.reload() });
}

async function extendPane(outputs, pane) {
  const isAtEnd = pane.scrollHeight - pane.scrollTop - pane.clientHeight < 40;
  for (let more = true; more; ) {
    const query = new URLSearchParams({
      stream: pane.dataset.stream,
      attempt: outputs.dataset.attempt,
      offset: pane.dataset.offset,
      style: pane.dataset.style,
    });
    const response = await parts(outputs.dataset.fragment + "?" + query);
    const next = response.headers.get("Chargehand-Offset");
    more = next !== pane.dataset.offset && Number(next) < Number(response.headers.get("Chargehand-Length"));
    pane.dataset.offset = next;
    pane.dataset.style = response.headers.get("Chargehand-Style");
    const fragment = new DOMParser().parseFromString("<pre>" + (await response.text()) + "</pre>", "text/html");
    pane.append(...fragment.querySelector("pre").childNodes);
  }
  if (isAtEnd) pane.scrollTop = pane.scrollHeight;
}

const live = document.querySelector("#live[data-events]");
if (live) watchInvocation(live);
const outputs = document.querySelector("#outputs[data-events]");
if (outputs) followOutput(outputs);
for (const pane of document.querySelectorAll("#outputs[data-events] pre")) pane.scrollTop = pane.scrollHeight;
