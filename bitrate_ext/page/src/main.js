// @ts-check
// Opens the page once the file is there.

import { cutShort, firstPart, readDocument, trouble } from "./data.js";
import { folderPage } from "./folder.js";
import { videoPage } from "./video.js";
import { picturePage } from "./viewer.js";

async function open() {
  const status = /** @type {HTMLElement} */ (document.getElementById("status"));
  const page = /** @type {HTMLElement} */ (document.getElementById("page"));
  const tell = (/** @type {string} */ wrong) => {
    page.hidden = true;
    status.textContent = wrong;
    document.body.prepend(status);
  };
  const ended = () => cutShort().then((short) => short && tell(short));
  ended();
  window.addEventListener("unhandledrejection", (event) => {
    event.preventDefault();
    status.textContent = `A part of the page cannot be shown: ${event.reason}. The file may be damaged; write it anew.`;
    document.body.prepend(status);
  });
  const wrong = trouble();
  if (wrong) {
    tell(wrong);
    return;
  }
  try {
    await firstPart();
    const told = readDocument();
    if (told.page === "folder") await folderPage(told, page);
    else if (told.page === "video") await videoPage(told, page);
    else await picturePage(told, page);
    window.addEventListener("hashchange", () => location.reload());
    page.hidden = false;
    status.remove();
    document.documentElement.dataset.usable = String(Math.round(performance.now()));
    ended(); // what opened before its end was there
  } catch (error) {
    tell((await cutShort()) || `The page cannot be shown: ${error}. The file may be damaged; write it anew.`);
  }
}

open();
