"""Each library against the double, as its users call it: `python hub_client.py FOLDER` prints {step: what came of it}.

One process, because HF_ENDPOINT is read at import and the imports take longer than the steps. FOLDER holds `model` and
`rows.parquet`; NAME is the model that was uploaded from it before.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import sys
import traceback
from pathlib import Path

from huggingface_hub import HfApi, ModelCard, hf_hub_download, snapshot_download
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError

NAME, OWN = "someone/model", "someone/by-hand"
READER = os.environ["READER"]
api = HfApi()


def files_of(folder: Path) -> dict[str, int]:
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in folder.rglob("*") if path.is_file()}


def create(folder: Path) -> object:
    api.create_repo("someone/space", repo_type="dataset", private=True)
    first = str(api.create_repo(OWN))
    refusals = {}
    for kind, options in {"space": {"repo_type": "space", "space_sdk": "static"}, "again": {}}.items():
        try:
            api.create_repo(OWN, **options)
        except HfHubHTTPError as error:
            refusals[kind] = error.response.status_code
    return [first, str(api.create_repo(OWN, exist_ok=True)) == first, refusals, api.whoami()["name"]]


def upload_folder(folder: Path) -> object:
    done = api.upload_folder(repo_id=OWN, folder_path=folder / "model", commit_message="By hand")
    api.upload_file(repo_id=OWN, path_or_fileobj=b"x", path_in_repo="deep/er/x.txt")
    api.create_branch(OWN, branch="dev")
    api.delete_file("deep/er/x.txt", OWN, revision="dev")
    told = [one.title for one in api.list_repo_commits(OWN)]
    dev = set(api.list_repo_files(OWN)) - set(api.list_repo_files(OWN, revision="dev"))
    return [len(done.oid), told, sorted(dev), api.file_exists(OWN, "deep/er/x.txt")]


def tags(folder: Path) -> object:
    api.create_tag(OWN, tag="v1")
    status = 0
    try:
        api.create_tag(OWN, tag="v1")
    except HfHubHTTPError as error:
        status = error.response.status_code
    api.upload_file(repo_id=OWN, path_or_fileobj=b"later", path_in_repo="later.txt")
    refs = api.list_repo_refs(OWN)
    return [status, [one.name for one in refs.tags], sorted(one.name for one in refs.branches)]


def lists(folder: Path) -> object:
    top = {one.path for one in api.list_repo_tree(OWN)}
    every = {one.path: getattr(one, "size", None) for one in api.list_repo_tree(OWN, recursive=True)}
    blobs = {one.rfilename: one.size for one in api.model_info(OWN, files_metadata=True).siblings}
    return [sorted(top), {name: every[name] for name in blobs} == blobs]


def snapshot(folder: Path) -> object:
    there = Path(snapshot_download(OWN, revision="v1"))
    return [files_of(there) | files_of(folder / "model") == files_of(there), (there / "later.txt").exists()]


def download(folder: Path) -> object:
    path = Path(hf_hub_download(OWN, "model.safetensors"))
    again = hf_hub_download(OWN, "model.safetensors", force_download=True)
    local = hf_hub_download(OWN, "config.json", local_dir=folder / "local")
    same = path.read_bytes() == (folder / "model" / "model.safetensors").read_bytes()
    return [same, again == str(path), Path(local).read_bytes() == (folder / "model" / "config.json").read_bytes()]


def closed(folder: Path) -> object:
    """The classes of the errors that the Hub's headers make."""
    found = {}
    for who, token in {"nobody": False, "stranger": os.environ["STRANGER"]}.items():
        for name in ("someone/private", "someone/gated", "someone/absent"):
            try:
                hf_hub_download(name, "config.json", token=token)
            except (GatedRepoError, RepositoryNotFoundError) as error:
                found[f"{who} {name}"] = [type(error).__name__, error.response.status_code]
    for word, name in {"revision": "v9", "entry": "main"}.items():
        try:
            hf_hub_download(OWN, "absent.txt", revision=name)
        except HfHubHTTPError as error:
            found[word] = [type(error).__name__, error.response.status_code]
    try:
        api.upload_file(repo_id=OWN, path_or_fileobj=b"x", path_in_repo="x", token=READER)
    except HfHubHTTPError as error:
        found["reader"] = error.response.status_code
    return found, len(hf_hub_download("someone/gated", "config.json", token=READER)) > 0


def model(folder: Path) -> object:
    """The model of the run, from the Hub and from the folder: the ids that each writes."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    ids = []
    for place, options in ((NAME, {"revision": "v1"}), (str(folder / "model"), {})):
        tokenizer = AutoTokenizer.from_pretrained(place, **options)
        loaded = AutoModelForCausalLM.from_pretrained(place, **options)
        words = tokenizer("Thought: what is in the basket?", return_tensors="pt")
        with torch.no_grad():
            ids.append(loaded.generate(**words, max_new_tokens=12, min_new_tokens=12, do_sample=False)[0].tolist())
    loaded.push_to_hub("someone/pushed-by-transformers")
    return [ids[0] == ids[1], len(ids[0]) > 12, api.repo_exists("someone/pushed-by-transformers")]


def dataset(folder: Path) -> object:
    from datasets import Dataset, load_dataset

    rows = Dataset.from_parquet(str(folder / "rows.parquet"), cache_dir=str(folder / "cache"))
    back = load_dataset("someone/rows", split="train")
    rows.push_to_hub("someone/pushed-by-datasets")
    again = load_dataset("someone/pushed-by-datasets", split="train")
    return [back.to_list() == rows.to_list(), back.features == rows.features, again.to_list() == rows.to_list()]


def cards(folder: Path) -> object:
    wrong = 0
    try:
        ModelCard("---\nlicense: no-such-licence\n---\n").validate()
    except ValueError as error:
        wrong = "license" in str(error)
    ModelCard("---\nlicense: mit\n---\n# Mine\n").push_to_hub(OWN)
    card = ModelCard.load(OWN)
    card.validate()
    return [wrong, card.data.license, card.text.strip()]


def collections(folder: Path) -> object:
    made = api.create_collection("Mine", namespace="someone", private=True)
    api.add_collection_item(made.slug, OWN, "model")
    again = api.add_collection_item(made.slug, OWN, "model", exists_ok=True)
    same = api.create_collection("Mine", namespace="someone", exists_ok=True)
    return [
        same.slug == made.slug,
        [one.item_id for one in again.items],
        len(list(api.list_collections(owner="someone"))),
    ]


def command_line(folder: Path) -> object:
    """`hf`, each command in a process of its own."""
    statuses = []
    for words in (
        "repos create someone/by-hf --private",
        f"upload someone/by-hf {folder / 'model'} . --commit-message first",
        f"download someone/by-hf --local-dir {folder / 'back'}",
        "download someone/absent",
    ):
        child = os.fork()
        if child == 0:
            sys.argv = ["hf", *words.split()]
            with Path(os.devnull).open("w") as nowhere:
                os.dup2(nowhere.fileno(), 1)
                from huggingface_hub.cli.hf import main

                try:
                    main()
                except SystemExit as end:
                    os._exit(end.code or 0)
                os._exit(0)
        statuses.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    there = files_of(folder / "back")
    return [statuses, all(there.get(name) == size for name, size in files_of(folder / "model").items())]


STEPS = (
    create,
    upload_folder,
    tags,
    lists,
    snapshot,
    download,
    closed,
    cards,
    collections,
    command_line,
    model,
    dataset,
)


def main(folder: str) -> None:
    results = {}
    for step in STEPS:
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                results[step.__name__] = step(Path(folder))
        except Exception:
            results[step.__name__] = traceback.format_exc()
    print(json.dumps(results))


if __name__ == "__main__":
    main(*sys.argv[1:])
