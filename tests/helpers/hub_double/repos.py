"""Repositories: make, look at, tag, branch; the checks of a card; who may read and write."""

from __future__ import annotations

import yaml

from agenttuning.hub import licences
from helpers.hub_double.state import DATE, TOKEN, described

Answer = tuple[int, object, dict[str, str]]
LICENCES = {*licences.REDISTRIBUTABLE, "cc-by-nc-4.0", "cc-by-nd-4.0", "gpl-3.0", "llama2", "llama3", "other"}


def refused(status: int, code: str | None, message: str) -> Answer:
    """An error as the Hub says it: in the body and in two headers."""
    headers = {"X-Error-Message": message} | ({"X-Error-Code": code} if code else {})
    return status, {"error": message}, headers


def unreadable(asked) -> Answer | None:
    """Why the caller may not see the repository; None when it may. What one may not see does not exist."""
    repository = asked.hub.repositories.get(asked.key)
    if repository is None or (repository["private"] and not _member(asked)):
        return refused(404 if asked.token else 401, "RepoNotFound", "Repository not found")
    return None


def closed(asked) -> Answer | None:
    """Why the caller may not read files of a gated repository; None when it may."""
    if asked.hub.repositories[asked.key]["gated"] and not _member(asked):
        status = 403 if asked.token else 401
        return refused(status, "GatedRepo", f"Access to {asked.key} is restricted; ask for it on its page")
    return None


def unwritable(asked, namespace: str | None = None) -> Answer | None:
    """Why the caller may not write there; None when it may."""
    if asked.role is None:
        return refused(401, None, "Invalid username or password.")
    owner = namespace or asked.words["name"].split("/")[0]
    if asked.token != TOKEN or owner in asked.hub.closed:
        return refused(403, None, f"You don't have the rights to write to {owner}")
    return unreadable(asked) if namespace is None else None


def _member(asked) -> bool:
    return asked.token is not None and asked.token.startswith(("hf_doubleTOKEN", "hf_doubleREADER"))


def at(asked) -> tuple[tuple, None] | tuple[None, Answer]:
    """The commit that the path's revision names, or why there is none."""
    if wrong := unreadable(asked):
        return None, wrong
    history = asked.hub.history(asked.key, asked.words.get("revision") or "main")
    if history is None:
        return None, refused(404, "RevisionNotFound", f"Invalid rev id: {asked.words['revision']}")
    return history[-1], None


def whoami(asked) -> Answer:
    if asked.role is None:
        return refused(401, None, "Invalid username or password.")
    token = {"accessToken": {"displayName": "double", "role": asked.role}, "type": "access_token"}
    return 200, {"type": "user", "name": "someone", "fullname": "Some One", "orgs": [], "auth": token}, {}


def create(asked) -> Answer:
    wanted = asked.json
    kind, owner = wanted.get("type") or "model", wanted.get("organization") or "someone"
    if wrong := unwritable(asked, owner):
        return wrong
    if kind not in ("model", "dataset"):
        return refused(400, None, f"a {kind} cannot be made here")
    name = f"{owner}/{wanted['name']}"
    key = name if kind == "model" else f"datasets/{name}"
    address = {"url": f"{asked.hub.url}/{key}", "name": name}
    if key in asked.hub.repositories:
        return 409, {"error": f"You already created this {kind} repo", **address}, {}
    asked.hub.make(name, wanted.get("visibility") == "private" or bool(wanted.get("private")), kind=kind)
    return 200, address, {}


def validate(asked) -> Answer:
    errors, warnings = card_problems(asked.json["content"])
    status = 400 if errors else 200
    return status, {"errors": _messages(errors), "warnings": _messages(warnings)}, {}


def _messages(texts: list[str]) -> list[dict]:
    return [{"message": text} for text in texts]


def card_problems(content: str) -> tuple[list[str], list[str]]:
    """(errors, warnings) of a README.md."""
    parts = content.split("---\n", 2)
    if len(parts) != 3 or parts[0].strip():
        return [], ["empty or missing yaml metadata in repo card"]
    try:
        header = yaml.safe_load(parts[1])
    except yaml.YAMLError as error:
        return [f"YAML: {error}"], []
    if not isinstance(header, dict):
        return ['"metadata" must be of type object'], []
    licence = header.get("license", "other")
    named = licence if isinstance(licence, list) else [licence]
    errors = [f'"license" must be one of {sorted(LICENCES)}' for one in named if one not in LICENCES]
    if "model-index" in header:
        errors += _index_problems(header["model-index"])
    return errors, []


def _index_problems(index: object) -> list[str]:
    from huggingface_hub.repocard_data import model_index_to_eval_results

    try:
        model_index_to_eval_results(index)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        return [f'"model-index" is none: {error!r}']
    return []


def info(asked) -> Answer:
    commit, wrong = at(asked)
    if wrong:
        return wrong
    sha, _, files = commit
    repository, name = asked.hub.repositories[asked.key], asked.words["name"]
    siblings = [{"rfilename": path} for path in sorted(files)]
    if "blobs" in asked.query:
        tellings = [described(one["rfilename"], files[one["rfilename"]]) for one in siblings]
        for one, told in zip(siblings, tellings, strict=True):
            lfs = {"sha256": told["lfs"]["oid"], **told["lfs"]} if "lfs" in told else None
            one |= {"size": told["size"], "blobId": told["oid"]} | ({"lfs": lfs} if lfs else {})
    about = {"id": name, "author": name.split("/")[0], "private": repository["private"], "gated": repository["gated"]}
    dates = {"createdAt": DATE, "lastModified": DATE}
    counts = {"downloads": 0, "likes": 0, "disabled": False, "tags": []}
    return 200, {"_id": "0" * 24, "sha": sha, "siblings": siblings, **about, **dates, **counts}, {}


def refs(asked) -> Answer:
    if wrong := unreadable(asked):
        return wrong
    repository = asked.hub.repositories[asked.key]
    heads = {"main": repository["commits"], **repository["branches"]}
    branches = [_ref("heads", name, commits[-1][0]) for name, commits in heads.items()]
    tags = [_ref("tags", name, sha) for name, sha in repository["tags"].items()]
    return 200, {"branches": branches, "tags": tags, "converts": [], "pullRequests": []}, {}


def _ref(kind: str, name: str, sha: str) -> dict:
    return {"name": name, "ref": f"refs/{kind}/{name}", "targetCommit": sha}


def commits(asked) -> Answer:
    _, wrong = at(asked)
    if wrong:
        return wrong
    told = [
        {"id": sha, "title": message, "message": "", "date": DATE, "authors": [{"user": "someone"}]}
        for sha, message, _ in reversed(asked.hub.history(asked.key, asked.words["revision"]))
    ]
    return 200, told, {}


def tag(asked) -> Answer:
    if wrong := unwritable(asked):
        return wrong
    tags, said = asked.hub.repositories[asked.key]["tags"], asked.words["revision"]
    if asked.method == "DELETE":
        if said not in tags:
            return refused(404, "RevisionNotFound", f"Tag {said} doesn't exist")
        del tags[said]
        return 200, {}, {}
    commit, wrong = at(asked)
    if wrong:
        return wrong
    if asked.json["tag"] in tags:
        return refused(409, None, "Tag reference exists already.")
    tags[asked.json["tag"]] = commit[0]
    return 200, {}, {}


def branch(asked) -> Answer:
    if wrong := unwritable(asked):
        return wrong
    branches, name = asked.hub.repositories[asked.key]["branches"], asked.words["revision"]
    if name == "main" or name in branches:
        return refused(409, None, "Reference already exists")
    start = asked.hub.history(asked.key, asked.json.get("startingPoint", "main") if asked.body else "main")
    if start is None:
        return refused(404, "RevisionNotFound", "Invalid starting point")
    branches[name] = list(start)
    return 200, {}, {}
