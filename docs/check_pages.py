"""Open every page of the built site in a headless browser, and report what a reader would see broken.

    python docs/check_pages.py build/docs [--chromium BROWSER] [--shots FOLDER]

Each page is opened from its file, without a network, at the widths of a desktop and of a phone, in light and in dark.
Problems: a page wider than its window, a picture that does not load or has no light background in dark, an error on the
console, a request to another host, a link to a file that does not exist, and a search for "alpha" that lists nothing.
Exit code 1 if there are any.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

from playwright.sync_api import Page, TimeoutError, sync_playwright

WIDTHS = {"wide": 1400, "phone": 390}
CHROMIUM = ["--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-component-update"]
OVERFLOW = """() => {
    const root = document.documentElement, width = root.clientWidth;
    if (root.scrollWidth <= width) return null;
    const clipped = (e) => {
        for (let p = e.parentElement; p && p !== document.body; p = p.parentElement)
            if (getComputedStyle(p).overflowX !== "visible") return true;
        return false;
    };
    const wide = [...document.querySelectorAll("body *")].filter(
        (e) => e.getBoundingClientRect().right > width + 1 && !clipped(e));
    return `${root.scrollWidth} px wide in ${width} px: ` + wide.slice(-1).map(
        (e) => `<${e.tagName.toLowerCase()} class="${e.className}"> ${e.textContent.trim().slice(0, 60)}`);
}"""
BROKEN_PICTURES = """async () => {
    const images = [...document.images];
    images.forEach((image) => { image.loading = "eager"; });
    await Promise.all(images.map((image) => image.decode().catch(() => null)));
    return images.filter((image) => !image.naturalWidth).map((image) => image.getAttribute("src"));
}"""
LINKS = """() => [...document.querySelectorAll("a[href]")].map((a) => a.href)"""
DARK_PICTURES = """() => [...document.querySelectorAll("article img")].filter((image) => {
    const [r, g, b, a = 1] = getComputedStyle(image).backgroundColor.match(/[\\d.]+/g).map(Number);
    return a < 1 || 0.299 * r + 0.587 * g + 0.114 * b < 200;
}).map((image) => image.getAttribute("src"))"""


def main() -> int:
    """Check all pages and print the problems. Returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("site", type=Path, help="folder of the built pages")
    parser.add_argument("--chromium", default=shutil.which("chromium"), help="the browser")
    parser.add_argument("--shots", type=Path, help="folder for a picture of every page, for eyes")
    flags = parser.parse_args()
    site = flags.site.resolve()
    pages = sorted(path for path in site.rglob("*.html") if "_static" not in path.parts)
    if not pages:
        print(f"error: {site}: found no pages, expected those of `make docs`", file=sys.stderr)
        return 2
    if not flags.chromium:
        print("error: --chromium: found no browser, expected it: apt-get install chromium", file=sys.stderr)
        return 2
    problems = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=flags.chromium, args=CHROMIUM, chromium_sandbox=False)
        for problem in check(browser.new_page(), site, pages, flags.shots):
            problems.append(problem)
            print(problem, flush=True)
        browser.close()
    print(f"{len(pages)} pages at {len(WIDTHS)} widths, light and dark: {len(problems)} problems")
    return 1 if problems else 0


def check(page: Page, site: Path, pages: list[Path], shots: Path | None) -> Iterator[str]:
    """Yield the problems of all pages and of the search."""
    messages: list[str] = []
    page.on("console", lambda message: messages.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: messages.append(str(error)))
    page.on("request", lambda request: messages.extend(remote(request.url)))
    for path in pages:
        name = path.relative_to(site).as_posix()
        page.goto(path.as_uri())
        yield from (f"{name}: picture {source} does not load" for source in page.evaluate(BROKEN_PICTURES))
        yield from (f"{name}: link to {target}: no such file" for target in missing_files(page.evaluate(LINKS)))
        for size, width in WIDTHS.items():
            page.set_viewport_size({"width": width, "height": 900})
            overflow = page.evaluate(OVERFLOW)
            if overflow:
                yield f"{name}: {overflow}"
            for scheme in ("light", "dark"):
                page.emulate_media(color_scheme=scheme)
                if shots:
                    page.screenshot(path=shots / f"{name.replace('/', '_')}-{size}-{scheme}.png")
        yield from (f"{name}: picture {source} has no light background" for source in page.evaluate(DARK_PICTURES))
        yield from (f"{name}: {message}" for message in messages)
        messages.clear()
    if not results(page, site, "alpha"):
        yield "search.html: found no pages for 'alpha', expected some"


def missing_files(links: list[str]) -> list[str]:
    """Return the files that links lead to and that do not exist."""
    files = {unquote(urlsplit(link).path) for link in links if link.startswith("file:")}
    return sorted(file for file in files if not Path(file).exists())


def results(page: Page, site: Path, query: str) -> int:
    """Return the number of pages that the site's search lists."""
    page.goto(f"{(site / 'search.html').as_uri()}?q={query}")
    try:
        page.wait_for_selector("#search-results ul.search li", timeout=10_000)
    except TimeoutError:
        return 0
    return page.locator("#search-results ul.search li").count()


def remote(url: str) -> list[str]:
    """Return the problem that a request is, if it goes to another host."""
    return [] if url.startswith(("file:", "data:", "blob:")) else [f"request to {url}"]


if __name__ == "__main__":
    sys.exit(main())
