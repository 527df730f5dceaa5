"""A page of results: one file, without scripts, for light and dark screens and phones."""

from __future__ import annotations

import base64
from collections.abc import Iterable
from html import escape

STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --soft: #5b6470; --ground: #fff; --card: #f4f6f8;
  --line: #d5dae0; --error: #b42318; --warning: #93590a; --note: #2f5f9e; }
@media (prefers-color-scheme: dark) { :root { --ink: #d7dce2; --soft: #98a2ae; --ground: #14171a;
  --card: #1d2226; --line: #343b42; --error: #ff8a80; --warning: #f2b25c; --note: #8ab4f0; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 62rem; padding: 1rem; background: var(--ground);
  color: var(--ink);  font: 16px/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.5rem; margin: .5rem 0; } h2 { font-size: 1.15rem; margin: 2rem 0 .6rem; }
p { margin: .3rem 0; } .soft { color: var(--soft); font-size: .9rem; }
.numbers { display: flex; flex-wrap: wrap; gap: .6rem; margin: 1rem 0; padding: 0; }
.numbers div { background: var(--card); border-radius: .5rem; padding: .5rem .9rem;
  flex: 1 0 7rem; }
.numbers b { display: block; font-size: 1.4rem; line-height: 1.2; }
ul.findings { list-style: none; padding: 0; margin: 0; }
ul.findings li { border-left: .3rem solid; padding: .3rem .8rem; margin: .5rem 0;
  background: var(--card); border-radius: 0 .4rem .4rem 0; }
li.error { border-color: var(--error) !important; } li.error b { color: var(--error); }
li.warning { border-color: var(--warning) !important; } li.warning b { color: var(--warning); }
li.note { border-color: var(--note) !important; } li.note b { color: var(--note); }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-size: .9rem; width: 100%; }
th, td { text-align: right; padding: .25rem .6rem; border-bottom: 1px solid var(--line);
  white-space: nowrap; } th:first-child, td:first-child { text-align: left; white-space: normal;
  min-width: 8rem; } td.none { color: var(--error); font-weight: 600; }
img { max-width: 100%; height: auto; display: block; }
"""


def html_page(title: str, body: Iterable[str], *, style: str = "") -> str:
    """A whole page.

    Args:
        title: For the browser, escaped already.
        body: Its parts as HTML; empty ones are left out.
        style: Rules beside the common ones.
    """
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>{STYLE}{style}</style>\n</head>\n<body>\n"
        + "\n".join(part for part in body if part)
        + "\n</body>\n</html>\n"
    )


def number_cards(cards: Iterable[tuple[str, str]]) -> str:
    """The page's main numbers, large, with what they are under them; text is escaped."""
    divs = (f"<div><b>{escape(number)}</b>{escape(what)}</div>" for number, what in cards)
    return '<div class="numbers">' + "".join(divs) + "</div>"


def picture_pair(light: bytes, dark: bytes, alt: str) -> str:
    """One of two PNG pictures, as the screen is."""
    of_light, of_dark = data_uri(light, "png"), data_uri(dark, "png")
    return (
        f'<picture><source media="(prefers-color-scheme: dark)" srcset="{of_dark}">'
        f'<img alt="{escape(alt)}" src="{of_light}"></picture>'
    )


def data_uri(data: bytes, kind: str) -> str:
    """A picture inside a page; `kind` is `png` or `jpeg`."""
    return f"data:image/{kind};base64,{base64.b64encode(data).decode('ascii')}"
