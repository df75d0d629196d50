"""Pages of documentation generators: their content, their code, and what is not shown."""

from __future__ import annotations

import pytest

from functions.libraries.document import Heading, ListBlock, Table
from functions.libraries.parsing import parse
from tests.libraries.pages import code_of, codes, hidden, only, shown

SPHINX = """\
<!DOCTYPE html>
<html><head><title>pkg.run &#8212; pkg 2.0</title>
<meta name="description" content="How to run">
<link rel="canonical" href="https://x.test/run.html">
<style>.secret-note { display: none; } body { color: black }</style></head>
<body><header>Site header</header>
<div class="sphinxsidebar"><ul><li>Sidebar</li></ul></div>
<div class="document"><div class="body" role="main">
<section id="running"><span id="alias"></span>
<h1>Running<a class="headerlink" href="#running">¶</a></h1>
<p>Call <code class="xref py"><span class="pre">run()</span></code> with a
   <a href="x">timeout</a>.</p>
<div class="highlight-python notranslate"><div class="highlight"><pre
><span></span><span class="kn">import</span> pkg
<span class="n">pkg</span><span class="o">.</span>run(<span class="s">"a &lt; b"</span>)
</pre></div></div>
<div class="highlight-default"><table class="highlighttable"><tr><td class="linenos"><pre>1
2</pre></td><td class="code"><div class="highlight"><pre>x = 1
y = 2
</pre></div></td></tr></table></div>
<dl class="py function"><dt class="sig sig-object py" id="pkg.run">
<span class="sig-name">run</span>(<em>timeout=5</em>)
<a class="headerlink" href="#pkg.run">¶</a></dt>
<dd><p>Runs it.</p>
<dl class="field-list"><dt>Parameters</dt><dd><p>timeout: seconds</p></dd></dl></dd></dl>
<dl class="py function"><dt class="sig sig-object py" id="pkg.stop">stop()</dt>
<dd><p>Stops.</p></dd></dl>
<aside class="admonition tip"><p>A tip.</p></aside>
<table><caption>Flags</caption><thead><tr><th>Flag</th><th>Does</th></tr></thead>
<tbody><tr><td><code>-v</code></td><td>more<br>words</td></tr></tbody></table>
<ul><li>one<ol><li>inner</li></ol></li><li><p>two</p><pre class="lang-sh">ls</pre></li></ul>
</section></div></div>
<nav>Navigation</nav><footer>Footer</footer><script>alert("x")</script></body></html>
"""


def test_the_content_of_a_sphinx_page_is_found() -> None:
    document = parse(SPHINX.encode(), name="run.html")
    assert document.title == "pkg.run"
    assert document.metadata["description"] == "How to run"
    assert document.metadata["canonical"] == "https://x.test/run.html"
    said = shown(document)
    for furniture in ("Site header", "Sidebar", "Navigation", "Footer", "alert", "¶"):
        assert furniture not in said
    assert "Call `run()` with a timeout." in said
    assert "A tip." in said


def test_headings_keep_their_anchors_and_signatures_are_sections() -> None:
    headings = only(parse(SPHINX.encode(), name="run.html"), Heading)
    assert [(b.level, b.title, b.anchor, b.is_api) for b in headings] == [
        (1, "Running", "running", False),
        (2, "run(timeout=5)", "pkg.run", True),
        (2, "stop()", "pkg.stop", True),
    ]


def test_code_loses_its_colours_and_line_numbers_and_keeps_its_language() -> None:
    assert codes(parse(SPHINX.encode(), name="run.html")) == [
        ("python", 'import pkg\npkg.run("a < b")'),
        (None, "x = 1\ny = 2"),
        ("bash", "ls"),
    ]


@pytest.mark.parametrize(
    "markup",
    [
        pytest.param('<pre><code class="language-rust">fn f() {}</code></pre>', id="commonmark"),
        pytest.param(
            '<div class="highlight highlight-source-rust"><pre>fn f() {}</pre></div>', id="github"
        ),
        pytest.param('<pre class="brush: rust">fn f() {}</pre>', id="brush"),
        pytest.param('<pre data-lang="rs">fn f() {}</pre>', id="data-lang"),
        pytest.param(
            '<pre class="prism-code language-rust"><code><span>fn f() {}</span><br></code></pre>',
            id="docusaurus",
        ),
        pytest.param(
            '<div class="sourceCode"><pre class="sourceCode rust">fn f() {}</pre></div>',
            id="pandoc",
        ),
    ],
)
def test_the_language_of_code_is_in_its_classes(markup: str) -> None:
    page = f"<html><body><main><p>{'words ' * 50}</p>{markup}</main></body></html>"
    assert codes(parse(page.encode(), name="a.html")) == [("rust", "fn f() {}")]


def test_lists_and_tables_are_kept() -> None:
    document = parse(SPHINX.encode(), name="run.html")
    (table,) = only(document, Table)
    assert table.rows == (("Flag", "Does"), ("`-v`", "more\nwords"))
    lists = [b.text for b in only(document, ListBlock)]
    assert lists == ["- Parameters:\n  timeout: seconds", "- one\n  1. inner\n- two"]


def hiding(inner: str) -> str:
    return f"""<html><head><style>.gone, #away {{ display:none }}
.x .deep {{display:none}}</style></head>
<body><main><p>{"Visible words. " * 30}</p>{inner}</main></body></html>"""


@pytest.mark.parametrize(
    ("markup", "reason"),
    [
        pytest.param('<p style="display:none">boo</p>', "display_none", id="display"),
        pytest.param('<p style="DISPLAY : NONE !important">boo</p>', "display_none", id="shouted"),
        pytest.param('<p style="visibility:hidden">boo</p>', "visibility_hidden", id="visibility"),
        pytest.param('<p style="opacity:0.0">boo</p>', "transparent", id="opacity"),
        pytest.param('<p style="color:transparent">boo</p>', "transparent", id="transparent"),
        pytest.param('<p style="font-size:0">boo</p>', "tiny_font", id="font-0"),
        pytest.param('<p style="font-size:1px">boo</p>', "tiny_font", id="font-1px"),
        pytest.param(
            '<p style="color:#fff;background:white">boo</p>', "same_color", id="white-on-white"
        ),
        pytest.param(
            '<p style="color:#123456;background-color:#123456">boo</p>', "same_color", id="same"
        ),
        pytest.param('<p style="color: rgb(255, 255, 255)">boo</p>', "white_text", id="white"),
        pytest.param('<font color="white">boo</font>', "white_text", id="font-tag"),
        pytest.param('<p style="position:absolute;left:-9999px">boo</p>', "off_screen", id="left"),
        pytest.param('<p style="text-indent:-5000px">boo</p>', "off_screen", id="indent"),
        pytest.param('<p style="height:0;overflow:hidden">boo</p>', "clipped", id="clipped"),
        pytest.param("<p hidden>boo</p>", "hidden_attribute", id="attribute"),
        pytest.param('<p class="gone">boo</p>', "style_sheet", id="class-rule"),
        pytest.param('<p id="away">boo</p>', "style_sheet", id="id-rule"),
        pytest.param(
            '<p>a <span style="display:none">boo</span> b</p>', "display_none", id="inline"
        ),
        pytest.param("<!--boo-->", "comment", id="comment"),
        pytest.param('<li style="display:none">boo</li>', "display_none", id="item"),
    ],
)
def test_what_a_page_does_not_show_is_kept_apart(markup: str, reason: str) -> None:
    document = parse(hiding(markup).encode(), name="a.html")
    assert hidden(document) == [(reason, "boo")]
    assert "boo" not in shown(document)


@pytest.mark.parametrize(
    "markup",
    [
        pytest.param(
            '<div style="background:#222"><p style="color:white">boo</p></div>', id="on-dark"
        ),
        pytest.param('<div role="tabpanel" hidden>boo</div>', id="tab"),
        pytest.param('<p style="font-size:10px;opacity:0.5;color:red">boo</p>', id="small"),
        pytest.param('<p class="deep">boo</p>', id="other-rule"),
        pytest.param('<p style="left:-5px;height:0">boo</p>', id="nudged"),
        pytest.param(
            '<pre style="background:#222"><span style="color:#fff">boo</span></pre>', id="code"
        ),
    ],
)
def test_what_a_page_does_show_is_text(markup: str) -> None:
    document = parse(hiding(markup).encode(), name="a.html")
    assert hidden(document) == []
    assert "boo" in shown(document)


def test_a_page_without_a_main_element_loses_its_furniture() -> None:
    page = """<html><body><header>Head</header><nav>Nav</nav><aside>Side</aside>
<h1>T</h1><p>Text</p><form><input value=x>Form</form><footer>Foot</footer></body></html>"""
    assert shown(parse(page.encode(), name="a.html")) == "# T\nText"


def test_broken_html_is_read_as_browsers_do() -> None:
    page = b"<h1>One<p>para <b>bold<table><tr><td>cell</h1></div><pre>code"
    said = shown(parse(page, name="a.html"))
    assert [word for word in ("One", "para", "bold", "cell", "code") if word not in said] == []


def test_deep_elements_are_refused() -> None:
    assert code_of(b"<div>" * 5_000 + b"x", name="a.html") == "too_deep"


def test_elements_that_are_nested_a_little_too_deeply_are_flattened() -> None:
    document = parse(b"<div>" * 300 + b"deep text" + b"</div>" * 300, name="a.html")
    assert shown(document) == "deep text"
    assert document.warnings == ("nesting_flattened",)


def test_attributes_without_end_are_refused() -> None:
    page = "<p " + " ".join(f"a{number}=1" for number in range(20_000)) + ">x"
    assert code_of(page.encode(), name="a.html") == "too_many_attributes"
    assert (
        code_of(("<p " + "a='>' " * 20_000 + ">x").encode(), name="a.html") == "too_many_attributes"
    )


def test_a_large_picture_in_an_attribute_is_no_reason_to_refuse() -> None:
    page = f'<p>Text <img src="data:image/png;base64,{"A" * 200_000}"></p>'
    assert shown(parse(page.encode(), name="a.html")) == "Text"
