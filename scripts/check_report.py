"""Open reports in Chromium as readers do, and say what is wrong with them.

    python scripts/check_report.py runs/NAME/report.html --axe node_modules/axe-core/axe.min.js

At the width of a phone and of a desk, light and dark: no console message, no request, nothing
wider than the window, and no serious or critical violation found by axe-core. Screenshots and a PDF
go to `--out`, to be looked at.

Needs `pip install playwright`, a Chromium (Debian: `apt-get install chromium`) and axe-core
(`npm install axe-core`).
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path
from typing import Any

WIDTHS = (390, 1280)
SCHEMES = ("light", "dark")
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
GRAVE = ("serious", "critical")


def main() -> int:
    """Check every report; 0 if nothing is wrong, 2 where a tool is missing."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("reports", nargs="+", type=Path)
    parser.add_argument("--axe", type=Path, default=Path("node_modules/axe-core/axe.min.js"))
    parser.add_argument("--browser", default=next(filter(None, map(shutil.which, BROWSERS)), ""))
    parser.add_argument("--out", type=Path, default=Path("report_check"))
    args = parser.parse_args()
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        return _missing("playwright", "pip install playwright")
    if not args.browser:
        return _missing("Chromium", "apt-get install chromium, or --browser=PATH")
    if not args.axe.is_file():
        return _missing(f"axe-core ({args.axe})", "npm install axe-core, or --axe=axe.min.js")
    args.out.mkdir(parents=True, exist_ok=True)
    found: list[str] = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=args.browser)
        for report in args.reports:
            found += _check(browser, report.resolve(), args.axe, args.out)
        browser.close()
    print("\n".join(found) or f"nothing wrong with {len(args.reports)} report(s)")
    return 1 if found else 0


def _missing(what: str, mend: str) -> int:
    print(f"{what} is missing: {mend}", file=sys.stderr)
    return 2


def _check(browser: Any, report: Path, axe: Path, out: Path) -> list[str]:
    """What is wrong with a report, a line each; `out` gets its pictures."""
    found = []
    name = report.parent.name
    for width in WIDTHS:
        for scheme in SCHEMES:
            said: list[str] = []
            page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
            page.on("console", lambda message, said=said: said.append(f"console: {message.text}"))
            page.on("pageerror", lambda error, said=said: said.append(f"error: {error}"))
            page.on("request", lambda request, said=said: said.extend(_foreign(request.url)))
            page.goto(report.as_uri())
            beyond = page.evaluate(
                "document.documentElement.scrollWidth - document.documentElement.clientWidth"
            )
            if beyond > 0:
                said.append(f"{beyond} pixels wider than the window")
            page.screenshot(path=out / f"{name}-{width}-{scheme}.png", full_page=True)
            page.evaluate("document.querySelectorAll('details').forEach(one => one.open = true)")
            page.add_script_tag(content=axe.read_text(encoding="utf-8"))
            violations = page.evaluate("axe.run().then(result => result.violations)")
            said += [
                f"axe, {one['impact']}: {one['id']}, {len(one['nodes'])} times: {one['help']}"
                for one in violations
                if one["impact"] in GRAVE
            ]
            found += [f"{report}: {width} {scheme}: {line}" for line in said]
            page.close()
    page = browser.new_page()
    page.goto(report.as_uri())
    page.pdf(path=out / f"{name}.pdf", format="A4")
    page.close()
    return found


def _foreign(url: str) -> list[str]:
    return [] if url.startswith(("file:", "data:")) else [f"request: {url}"]


if __name__ == "__main__":
    sys.exit(main())
