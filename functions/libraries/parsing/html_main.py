"""Where the documentation of a page is, and what of it is furniture."""

from __future__ import annotations

import re

from selectolax.lexbor import LexborHTMLParser, LexborNode

from functions.libraries.words import words

# The first that holds enough text. Sphinx, MkDocs, Docusaurus, GitHub, and what HTML provides.
_MAIN = (
    "[role=main] article",
    "[role=main]",
    "div.body",
    ".theme-doc-markdown",
    "article.md-content__inner",
    ".markdown-body",
    "main article",
    "main",
    "article",
    "#main-content",
    "#content",
)
_ENOUGH = 200  # characters; less is an empty shell or a teaser
_SHARE = 0.25  # of the text of the whole page

SKIPPED_TAGS = words(
    "script style nav footer noscript template svg math iframe object embed canvas audio video "
    "button input select textarea form dialog head title link meta"
)
_SKIPPED_ROLES = words(
    "navigation banner contentinfo search complementary menu menubar toolbar dialog"
)
_SKIPPED_CLASSES = words(
    "sphinxsidebar sidebar toctree-wrapper toctree-l1 breadcrumb breadcrumbs wy-breadcrumbs "
    "wy-nav-side headerlink hash-link anchorjs-link md-sidebar md-header md-footer md-nav "
    "md-source-file md-content__button pagination-nav theme-doc-footer theme-doc-breadcrumbs "
    "theme-doc-toc-mobile table-of-contents rst-footer-buttons prev-next-area related "
    "relations linenos linenodiv lineno gutter copybtn viewcode-link edit-this-page "
    "edit-on-github cookie-banner cookie-consent skip-link feedback page-toc "
    "bd-sidebar bd-header-article toc contents-list"
)
_ADMONITION = re.compile(r"admonition|alert|callout|note|tip|warning|caution|danger|important")


def main_node(page: LexborHTMLParser) -> LexborNode | None:
    """The element that has the content; the body where none stands out."""
    body = page.body
    if body is None:
        return page.root
    whole = len(body.text(deep=True))
    for selector in _MAIN:
        found = page.css(selector)
        if len(found) == 1 or (found and selector != "article"):
            size = len(found[0].text(deep=True))
            if size >= min(_ENOUGH, whole * _SHARE):
                return found[0]
    return body


def is_furniture(node: LexborNode, tag: str, *, in_body: bool) -> bool:
    """Whether an element is navigation, a button or the like.

    `in_body`: no main content was found, so that the page's own header is among its text.
    """
    if tag in SKIPPED_TAGS:
        return True
    attributes = node.attributes
    if not attributes:
        return in_body and tag in {"header", "aside"}
    if attributes.get("role") in _SKIPPED_ROLES or attributes.get("aria-hidden") == "true":
        return True
    classes = attributes.get("class") or ""
    if not _SKIPPED_CLASSES.isdisjoint(classes.split()):
        return True
    if tag == "aside":  # Starlight and Sphinx write admonitions as asides
        return _ADMONITION.search(classes.lower()) is None
    return in_body and tag == "header"
