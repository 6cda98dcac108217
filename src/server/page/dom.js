// Helpers that every part of the page uses.

export const $ = (id) => document.getElementById(id);

// Creates an element. `props` are properties, or attributes if the element has no such property.
export function el(tag, props = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (name in element && !name.includes("-")) element[name] = value;
    else if (value !== undefined && value !== null) element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

export function bytes(count) {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let unit = 0;
  while (count >= 999.5 && unit < units.length - 1) {
    count /= 1000;
    unit += 1;
  }
  return `${count < 10 && unit ? count.toFixed(1) : Math.round(count)} ${units[unit]}`;
}

export function seconds(count) {
  if (count < 60) return `${count < 10 ? count.toFixed(1) : Math.round(count)} s`;
  const [hours, minutes] = [Math.floor(count / 3600), Math.floor(count / 60) % 60];
  return `${hours ? `${hours} h ` : ""}${minutes} min ${Math.round(count % 60)} s`;
}

// The file name in a URL.
export function nameOf(url) {
  try {
    const parsed = new URL(url, document.baseURI);
    return decodeURIComponent(parsed.pathname.split("/").pop()) || parsed.host;
  } catch {
    return url || "";
  }
}

// The relative URL of an upload or result of this server, whatever the host of `url` is; null for other URLs.
export function ownFile(url) {
  return /^https?:.*\/(media\/[0-9a-f-]{36}\/[^/?#]+)$/.exec(url)?.[1] ?? null;
}

export const pause = (milliseconds) => new Promise((done) => setTimeout(done, milliseconds));
