"""WebShop's files: read in one pass, checked, refused with a reason. Those here are generated, in the same schema."""

from __future__ import annotations

import hashlib
import json
import logging
import random
from functools import lru_cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agenttuning import protocols
from agenttuning.environments import webshop
from agenttuning.environments.webshop import files, synthetic
from agenttuning.environments.webshop.catalogue import Catalogue, product_of
from agenttuning.environments.webshop.goals import NO_CAP, price_cap
from agenttuning.environments.webshop.reward import guessed_nouns, tagger
from agenttuning.episodes.runner import play
from agenttuning.errors import UserError
from agenttuning.policies.expert import expert
from agenttuning.protocols import webshop as texts
from agenttuning.protocols.messages import own

RECORD = {
    "asin": "B000000001",
    "name": "Red Mug",
    "pricing": "$9.50",
    "full_description": "A mug.",
    "small_description": ["For tea", "Holds 8 oz"],
    "customization_options": {"Color": [{"value": " Red/White ", "image": None}], "Size": None},
    "category": "home",
    "query": " Mug ",
    "product_category": "Home › Mugs",
    "images": ["x"],
}


@lru_cache(maxsize=1)
def generated() -> tuple[bytes, bytes, bytes]:
    """The generated catalogue with a wish for each third product, as WebShop's three files hold them."""
    products, attributes = synthetic.records()
    rng = random.Random("wishes")
    human: dict[str, list[dict]] = {"B999999999": [{"instruction": "not sold"}]}
    for number, product in enumerate(products[::3]):
        options = product["customization_options"] or {}
        human[product["asin"]] = [
            {
                "asin": product["asin"],
                "instruction": f"i want {product['query']} {number}.",
                "instruction_attributes": attributes[product["asin"]]["attributes"][: min(number, 1 + number % 2)],
                "instruction_options": [rng.choice(values)["value"].lower() for values in options.values()],
            }
        ]
    products.insert(1, {**RECORD, "asin": "nan"})
    products.insert(2, {**RECORD, "asin": "B0000000011"})
    products.insert(3, dict(products[0]))  # the same asin again
    shop, known, wishes = products, {**attributes, "B888888888": {}}, human
    return json.dumps(shop, indent=1).encode(), json.dumps(known).encode(), json.dumps(wishes).encode()


def write_files(folder: Path, name: str = "1k") -> None:
    for file, content in zip(files.needed(name, folder), generated(), strict=True):
        file.write_bytes(content)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_files(tmp_path)
    return tmp_path


def test_a_record_becomes_a_product() -> None:
    product, prices = product_of(RECORD, {"B000000001": ["ceramic"]})
    assert (product.title, product.price, prices) == ("Red Mug", "$9.5", [9.5])
    assert product.options == {"color": ["red | white"]}
    assert (product.query, product.attributes, product.bullets) == ("mug", ["ceramic"], ["For tea", "Holds 8 oz"])
    assert product_of(RECORD, {})[0].attributes == ["DUMMY_ATTR"]


@pytest.mark.parametrize(
    ("pricing", "tag", "prices"),
    [
        (None, "$100.0", [100.0]),
        ("", "$100.0", [100.0]),
        ("$1,234.50", "$1234.5", [1234.5]),
        ("$3$4.25$9", "$3.0 to $4.25", [3.0, 4.25]),
        ("from $3", "$3.0", [3.0]),
    ],
)
def test_prices(pricing: str | None, tag: str, prices: list[float]) -> None:
    product, found = product_of({**RECORD, "pricing": pricing}, {})
    assert (product.price, found) == (tag, prices)


@pytest.mark.parametrize(
    "change",
    [
        {"asin": None},
        {"name": 3},
        {"full_description": None},
        {"small_description": None},
        {"customization_options": ["x"]},
        {"customization_options": {"Size": [{"image": "x"}]}},
        {"customization_options": {"Size": "x"}},
        {"query": None},
        {"category": None},
        {"product_category": 1},
        {"pricing": "free"},
        {"pricing": "$1.2.3"},
        {"pricing": 5},
    ],
)
def test_a_record_of_another_schema_is_refused_by_name(change: dict) -> None:
    with pytest.raises(UserError, match=next(iter(change))):
        product_of({**RECORD, **change}, {})


def test_a_price_cap_is_one_of_the_next_four() -> None:
    rng = random.Random(0)
    assert {price_cap(25.0, rng)[0] for _ in range(200)} == {40.0, 50.0, 60.0}  # the larger of two of 30, 40, 50, 60
    assert price_cap(975.0, rng) == (990.0, ", and price lower than 990.00 dollars")
    assert price_cap(985.0, rng) == price_cap(5000.0, rng) == (NO_CAP, "")


def test_goals_are_the_files_in_the_originals_order(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        items = webshop.load(folder)
    assert [item["id"] for item in items[:2]] == ["webshop_0", "webshop_1"] and len(items) == 200
    assert "2 records without a proper asin are left out" in caplog.text
    assert "items_shuffle_1000.json has sha256" in caplog.text  # and its own has another
    # 267 wishes, the first without attributes: 266 goals, shuffled as random.seed(233) shuffles them.
    wished = [f"i want {product['query']} {n}" for n, product in enumerate(synthetic.records()[0][::3])][1:]
    random.Random(233).shuffle(wished)
    assert len(wished) == 266
    assert [item["instruction"].split(", and price")[0] for item in items] == wished[:200]
    assert webshop.load(folder, 200, 266)[0]["id"] == "webshop_200"
    for first, last in ((0, 267), (5, 5), (-1, 4)):
        with pytest.raises(UserError, match="266 goals"):
            webshop.load(folder, first, last)


def test_a_second_reading_gives_the_same_prices_and_caps(folder: Path) -> None:
    first = webshop.load(folder)
    again = folder / "again"
    again.mkdir()
    write_files(again)
    random.seed(5)  # what the rest of the process draws does not matter
    assert webshop.load(again) == first
    shop = files.open_shop("1k", again)
    assert shop.catalogue.prices != synthetic.catalogue().prices and len(shop.catalogue) == 800
    ranges = [asin for asin in shop.catalogue.asins if " to " in shop.catalogue.of(asin).price]
    assert len(ranges) > 50
    for asin in ranges:
        low, high = (float(part.strip("$")) for part in shop.catalogue.of(asin).price.split(" to "))
        assert low <= shop.catalogue.price(asin) <= high


def test_the_expert_wins_the_goals_of_files(folder: Path) -> None:
    items = webshop.load(folder, 166, 266)
    practice = protocols.load(protocols.FOLDER / "practice.yaml")
    with webshop.serve("1k", catalogue=folder) as room:
        assert files.open_shop("1k", folder) is files.open_shop("1k", folder)  # one catalogue for goals and shop
        records = play(room, items, expert, practice, own(texts), model="expert", seed=0, progress=False)
    assert [record["item"] for record in records if record["reward"] < 1.0] == []


def test_only_the_pinned_full_catalogue_with_spacy_is_comparable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_files(tmp_path, "full")
    shop = "items_shuffle.json"
    assert files.paths(tmp_path) == files.paths(tmp_path / shop) == ("full", tmp_path)

    def served() -> tuple[bool, str]:
        files._open.cache_clear()
        with webshop.serve("full", catalogue=tmp_path) as room:
            return room.backend.comparable, room.backend.label

    monkeypatch.setattr(webshop, "tagger", lambda: (guessed_nouns, "en_core_web_lg"))
    comparable, label = served()
    assert not comparable and "changed files: items_shuffle.json, items_ins_v2.json, items_human_ins.json" in label
    for file in files.needed("full", tmp_path):
        monkeypatch.setitem(files.PINS, file.name, hashlib.sha256(file.read_bytes()).hexdigest())
    comparable, label = served()
    assert comparable and label.endswith("by spaCy en_core_web_lg")
    monkeypatch.setattr(webshop, "tagger", lambda: (guessed_nouns, None))
    comparable, label = served()
    assert not comparable and label.endswith("guessed (no spaCy en_core_web_lg)")
    files._open.cache_clear()


def test_the_small_catalogue_is_never_comparable(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for file in files.needed("1k", folder):
        monkeypatch.setitem(files.PINS, file.name, hashlib.sha256(file.read_bytes()).hexdigest())
    monkeypatch.setattr(webshop, "tagger", lambda: (guessed_nouns, "en_core_web_lg"))
    files._open.cache_clear()
    with webshop.serve("1k", catalogue=folder) as room:
        assert not room.backend.comparable and "changed" not in room.backend.label
    files._open.cache_clear()


def test_what_is_missing_is_said(folder: Path, tmp_path: Path) -> None:
    assert webshop.missing("1k", catalogue=folder) == []
    (folder / files.HUMAN).unlink()
    assert [lack.what for lack in webshop.missing("1k", catalogue=folder)] == [str(folder / files.HUMAN)]
    assert len(webshop.missing("full", catalogue=folder)) == 3
    assert len(webshop.missing("full")) == 1
    with pytest.raises(UserError, match="items_human_ins.json is not there"):
        webshop.load(folder)
    with pytest.raises(UserError, match="no catalogue"), webshop.serve("full"):
        pass
    with pytest.raises(UserError, match="no backend 'real'"), webshop.serve("real"):
        pass
    write_files(folder, "full")
    with pytest.raises(UserError, match="both catalogues"):
        webshop.load(folder)
    with pytest.raises(UserError, match="no WebShop catalogue"):
        webshop.load(tmp_path / "elsewhere")


@pytest.mark.parametrize(
    ("file", "text", "why"),
    [
        ("items_shuffle_1000.json", "", "does not begin as a list"),
        ("items_shuffle_1000.json", "{}", "does not begin as a list"),
        ("items_shuffle_1000.json", "[", "cut off"),
        ("items_shuffle_1000.json", "[]", "has no product"),
        ("items_shuffle_1000.json", '[{"asin": "B1"', "cut off"),
        ("items_shuffle_1000.json", '[{"asin": 1}]', "asin"),
        ("items_shuffle_1000.json", "[1]", "should begin"),
        ("items_shuffle_1000.json", "[{}", "asin"),
        ("items_shuffle_1000.json", f"[{json.dumps(RECORD)}", "cut off"),
        ("items_shuffle_1000.json", f"[{json.dumps(RECORD)},]", "comma"),
        ("items_shuffle_1000.json", f"[{json.dumps(RECORD)} {{", "between"),
        ("items_shuffle_1000.json", f"[{json.dumps(RECORD)}] x", "follows"),
        ("items_shuffle_1000.json", '[{"a": ' + 20_000 * "[", "not JSON"),
        ("items_ins_v2_1000.json", "[]", "one object"),
        ("items_ins_v2_1000.json", "{", "not WebShop's"),
        ("items_ins_v2_1000.json", '{"B1": {"attributes": "x"}}', "not a list of texts"),
        ("items_human_ins.json", "null", "one object"),
    ],
)
def test_a_broken_file_is_refused_with_the_reason(folder: Path, file: str, text: str, why: str) -> None:
    (folder / file).write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=why):
        webshop.load(folder)


@pytest.mark.parametrize(
    "wishes",
    [
        "x",
        ["x"],
        [{"instruction": 1, "instruction_attributes": [], "instruction_options": []}],
        [{"instruction": "x", "instruction_attributes": ["a"]}],
        [{"instruction": "x", "instruction_attributes": [1], "instruction_options": []}],
        [{"instruction": "x", "instruction_attributes": ["a"], "instruction_options": {"a": "b"}}],
    ],
)
def test_a_broken_wish_is_refused_by_name(folder: Path, wishes: object) -> None:
    asin = synthetic.records()[0][5]["asin"]
    (folder / files.HUMAN).write_text(json.dumps({asin: wishes}), encoding="utf-8")
    with pytest.raises(UserError, match=asin):
        webshop.load(folder)


def test_bytes_that_are_not_utf8_are_refused(folder: Path) -> None:
    (folder / "items_shuffle_1000.json").write_bytes(b'[{"asin": "\xff"}]')
    with pytest.raises(UserError, match="utf-8"):
        webshop.load(folder)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.dictionaries(st.text(max_size=4), st.text(max_size=9) | st.integers() | st.none(), max_size=3)),
    st.integers(1, 40),
    st.sampled_from([None, 1]),
)
def test_records_are_the_same_whatever_the_chunk(tmp_path_factory, found: list[dict], chunk: int, indent) -> None:
    path = tmp_path_factory.mktemp("records") / "x.json"
    path.write_text(json.dumps(found, indent=indent, ensure_ascii=False), encoding="utf-8", errors="replace")
    wanted = json.loads(path.read_text(encoding="utf-8"))
    digest = hashlib.sha256()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "CHUNK", chunk)
        assert list(files.records(path, digest)) == wanted
    assert digest.digest() == hashlib.sha256(path.read_bytes()).digest()


def test_a_product_without_end_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.json"
    path.write_text('[{"a": "' + 5000 * "x", encoding="utf-8")
    monkeypatch.setattr(files, "CHUNK", 100)
    monkeypatch.setattr(files, "MOST_CHARS", 1000)
    digest = hashlib.sha256()
    with pytest.raises(UserError, match="cut off"):
        list(files.records(path, digest))
    assert digest.digest() == hashlib.sha256(path.read_bytes()[:1100]).digest()  # the rest was not read


def test_products_survive_packing() -> None:
    pairs = [product_of(record, {}) for record in synthetic.records()[0][:20]]
    stock = Catalogue(iter(pairs), random.Random(0))
    assert [stock.product(number) for number in range(20)] == [product for product, _ in pairs]


def test_the_tagger_of_this_machine_has_a_name() -> None:
    nouns, model = tagger()
    assert "mug" in nouns("Red Mug") and model in (None, "en_core_web_lg")
