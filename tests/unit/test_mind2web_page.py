"""What of a page is shown, and how: the rules of Mind2Web's prune_tree and get_tree_repr, one by one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agenttuning.environments.mind2web.page import candidates, parse, pruned, written
from agenttuning.environments.mind2web.question import ask

ROWS = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "agentinstruct_sample" / "mind2web.jsonl"


def shown(html: str, *wanted: str) -> str:
    return written(pruned(parse(html), list(wanted)), {})


def flat(tag: str, count: int, first: int = 10) -> str:
    return "".join(f'<{tag} backend_node_id="{first + n}" name="n{n}"/>' for n in range(count))


def test_attributes_are_values_in_a_fixed_order_without_names():
    html = '<a backend_node_id="1" title="Two" type="One" role="link" href="x" name="two" class="C"/>'
    assert shown(html, "1") == "<a id=0 link one two c />"


@pytest.mark.parametrize("value", ["hidden", "None", "presentation", "null", "undefined", "https://x.org"])
def test_values_that_say_nothing_are_left_out(value: str):
    assert shown(f'<a backend_node_id="1" name="{value}" title="kept"/>', "1") == "<a id=0 kept />"


def test_long_words_many_words_and_many_attributes_are_cut():
    assert (
        shown('<a backend_node_id="1" name="fourteenletter fifteen-letters x"/>', "1") == "<a id=0 fourteenletter x />"
    )
    assert shown('<a backend_node_id="1" name="a b c d e f"/>', "1") == "<a id=0 a b c d e />"
    values = " ".join(
        f'{name}="{" ".join(f"{name[0]}{n}" for n in range(5))}"'
        for name in ("role", "type", "alt", "label", "title", "value")
    )
    assert len(shown(f'<a backend_node_id="1" {values}/>', "1").split()) == 2 + 20 + 1


def test_a_text_is_cut_after_twenty_words_and_its_element_is_not_written():
    words = " ".join(f"w{n}" for n in range(25))
    html = f'<p backend_node_id="1"> <text backend_node_id="2">{words}</text> </p>'
    assert shown(html, "1") == f"<p id=0> {' '.join(words.split()[:20])} </p>"


def test_signs_are_written_as_themselves_and_double_quotes_are_lost():
    html = '<p backend_node_id="1" title="a &quot;b&quot;"> <text>Q&amp;A &lt;"x"&gt; &amp;nbsp; it\'s</text> </p>'
    assert shown(html, "1") == '<p id=0 a "b"> Q&A < x > it\'s </p>'


def test_three_neighbours_on_each_side_are_kept_and_texts_are_none():
    html = f'<div backend_node_id="1"><text backend_node_id="2">in between</text>{flat("i", 9)}</div>'
    assert shown(html, "14") == ("<div>in between<i n1 /><i n2 /><i n3 /><i id=0 n4 /><i n5 /><i n6 /><i n7 /></div>")


def test_the_first_of_its_neighbours_has_three_after_it():
    html = f'<div backend_node_id="1">{flat("i", 9)}</div>'
    assert shown(html, "11") == "<div><i n0 /><i id=0 n1 /><i n2 /><i n3 /><i n4 /></div>"


def test_six_generations_are_kept_below_a_wanted_element():
    html = '<b backend_node_id="9" name="g9"/>'
    for generation in range(8, 0, -1):
        html = f'<b backend_node_id="{generation}" name="g{generation}">{html}</b>'
    assert shown(html, "1").count("<b") == 1 + 6


def test_fifty_elements_are_kept_below_a_wanted_element():
    assert shown(f'<div backend_node_id="1">{flat("i", 60)}</div>', "1").count("<i") == 50


def test_elements_with_nothing_to_say_give_way_to_their_only_child():
    html = '<html backend_node_id="1"><div backend_node_id="2"><div backend_node_id="3"><a backend_node_id="4"/>'
    html += '</div></div><div backend_node_id="5"><text>far</text></div></html>'
    assert shown(html, "4") == "<html><a id=0 /></html>"


def test_what_is_far_from_the_wanted_elements_is_gone():
    html = '<html backend_node_id="1"><div backend_node_id="2"><a backend_node_id="3"/></div><div backend_node_id="4">'
    html += '<p backend_node_id="5"><text>far away</text></p><b backend_node_id="6"/></div></html>'
    assert "far" not in shown(html, "3")
    assert "far" in shown(html, "6")


def test_only_wanted_elements_have_numbers_in_the_order_of_the_page():
    html = f'<div backend_node_id="1">{flat("i", 3)}</div>'
    tree = pruned(parse(html), ["12", "10"])
    numbers: dict[str, int] = {}
    assert written(tree, numbers) == "<div><i id=0 n0 /><i n1 /><i id=1 n2 /></div>"
    assert numbers == {"10": 0, "12": 1}
    assert [written(node, numbers) for node in candidates(tree)] == ["<i id=0 n0 />", "<i id=1 n2 />"]


def test_the_page_itself_is_not_changed_and_an_unknown_element_is_an_error():
    page = parse(f'<div backend_node_id="1">{flat("i", 9)}</div>')
    before = written(page, {})
    pruned(page, ["14"])
    assert written(page, {}) == before
    with pytest.raises(KeyError):
        pruned(page, ["99"])


def test_entities_of_a_page_are_not_expanded(tmp_path: Path):
    secret = tmp_path / "secret"
    secret.write_text("canary")
    html = f'<!DOCTYPE a [<!ENTITY e SYSTEM "file://{secret}">]><a backend_node_id="1"><text>x &e;</text></a>'
    assert "canary" not in shown(html, "1")


# The page that this row of AgentInstruct was most likely made of, written again from what it shows.
CHECK_IN = """<html backend_node_id="1"> <main backend_node_id="2" role="main"> <section backend_node_id="3"
role="tabpanel"> <div backend_node_id="4"> <label backend_node_id="5"> <text backend_node_id="6">Confirmation or ticket
number*</text> </label> <input backend_node_id="7" type="text" label="Please enter your 6 digit" name="confirmation
number*"/> </div> </section> </main> </html>"""
CHECK_IN_QUESTION = """'''
<html> <main main> <section tabpanel> <div> <label id=0> Confirmation or ticket number* </label> <input id=1 text \
please enter your 6 digit confirmation number* /> </div> </section> </main> </html>
'''

Based on the HTML webpage above, try to complete the following task:
Task: Check in
Previous actions:
[heading]  Check-in -> CLICK
What should be the next action? Please select from the following choices (If the correct action is not in the page \
above, please select A. 'None of the above'):

A. None of the above
B. <label id=0> Confirmation or ticket number* </label>
C. <input id=1 text please enter your 6 digit confirmation number*"""


def test_the_question_is_laid_out_as_in_the_training_rows():
    question = ask(CHECK_IN, "Check in", ["[heading]  Check-in -> CLICK"], ["7", "5"])
    assert question.text == CHECK_IN_QUESTION
    assert question.choices == ["5", "7"]
    assert question.letters == "ABC"


def test_five_earlier_actions_are_shown_or_none():
    text = ask(CHECK_IN, "T", [f"act {n}" for n in range(7)], ["5"]).text
    assert "Previous actions:\nact 2\nact 3\nact 4\nact 5\nact 6\nWhat" in text
    assert "Previous actions:\nNone\nWhat" in ask(CHECK_IN, "T", [], ["5"]).text


@pytest.mark.skipif(not ROWS.exists(), reason="the rows of AgentInstruct are not beside this repository")
def test_a_real_row_comes_out_whole():
    row = next(row for line in ROWS.open() if (row := json.loads(line))["id"] == "mind2web_110")
    task = "Browse check in with confirmation number 123456 for John."
    assert ask(CHECK_IN, task, ["[heading]  Check-in -> CLICK"], ["5", "7"]).text == row["conversations"][0]["value"]


names = st.sampled_from(["div", "a", "svg", "text"])
words = st.text(st.characters(codec="utf-8", categories=("L", "N", "P", "Z")), max_size=30)


@st.composite
def trees(draw, depth: int = 4) -> str:
    from xml.sax.saxutils import escape, quoteattr

    inside = "".join(draw(st.lists(trees(depth - 1), max_size=3))) if depth else ""
    text = f"<text>{escape(draw(words))}</text>" if draw(st.booleans()) else ""
    identity = draw(st.integers(0, 10_000))
    return f'<div backend_node_id="{identity}" title={quoteattr(draw(words))}>{text}{inside}</div>'


@settings(max_examples=60, deadline=None)
@given(trees(), st.data())
def test_every_wanted_element_is_a_choice_of_at_most_ten_words(html: str, data: st.DataObject):
    identities = sorted({node.attrib["backend_node_id"] for node in candidates(parse(html))})
    wanted = data.draw(st.lists(st.sampled_from(identities), min_size=1, max_size=5, unique=True))
    question = ask(html, "T", [], wanted)
    assert set(question.choices) == set(wanted)
    listed = question.text.split("A. None of the above\n")[-1].split("\n")
    assert all(len(line.split()) <= 1 + 10 for line in listed)
    assert "\r" not in question.text
