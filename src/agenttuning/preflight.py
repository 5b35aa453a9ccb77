"""What `train` needs and does not have, found before anything heavy is imported, and all of it in one message.

Takes less than five seconds: every look at the network or at a driver is bounded. Local folders ask nothing of the Hub.
"""

import contextlib
import json
import os
import re
import socket
import threading
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

from agenttuning import model_size, trackers
from agenttuning.errors import UserError
from agenttuning.machine import Machine, detect
from agenttuning.recipe import Recipe
from agenttuning.recipe.accelerate_config import check_optimizer, checkpoints_activations, validate
from agenttuning.training import adapters

CONNECT_SECONDS = 1.5
ANSWER_SECONDS = 1.5
# Owners whose model pages ask for a licence to be accepted. Others are found out by the Hub's answer.
GATED_OWNERS = ("meta-llama",)
# a recipe's name -> make's name for it
MAKE_NAMES = (
    (r"agentlm-([^/]+)/sft", "{}"),
    (r"agentlm-([^/]+)/sft-(q?lora)", "{}-{}"),
    (r"modern/([^/]+)/sft", "modern-{}"),
    (r"ablations/([^/]+)", "ablation-{}"),
)
TRUE = ("1", "true", "yes", "on")


def check(
    recipe: Recipe,
    data_paths: dict[str, Path] | None = None,
    machine: Machine | None = None,
    on_cpu: bool = False,
) -> None:
    """Raise one UserError that lists everything missing; return None when training can start. on_cpu: without a GPU.

    Reads HF_TOKEN, HF_TOKEN_PATH, HF_HOME, HF_HUB_CACHE, HF_ENDPOINT and HF_HUB_OFFLINE as huggingface_hub does.
    """
    # a wrong config file is a mistake in the repository rather than something missing: it raises by itself
    adapters.check(recipe)
    config = validate(recipe.accelerate_config)
    checkpoints_activations(recipe, config)
    check_optimizer(recipe, config)
    missing = [] if on_cpu else _gpu(recipe, machine or detect())
    missing += [lack] if (lack := adapters.missing(recipe)) else []
    local, remote = _wanted(recipe, data_paths or {})
    missing += local + trackers.missing(recipe) + _hub(remote)
    if missing:
        listed = "\n".join(f"  {number}. {text}" for number, text in enumerate(missing, 1))
        plural = "thing is" if len(missing) == 1 else "things are"
        raise UserError(f"{recipe.name} cannot be trained here yet; {len(missing)} {plural} missing:\n{listed}")


def _gpu(recipe: Recipe, machine: Machine) -> list[str]:
    if recipe.launch.accelerate_config == "cpu" or machine.gpus:
        return []
    stated = f"{recipe.launch.gpus} x {recipe.launch.gpu_name}" if recipe.launch.gpus else "one or more"
    return [
        f"GPU: {recipe.launch.accelerate_config} needs GPUs ({stated} in the recipe) and this machine shows none. Run "
        f"on a machine with GPUs; `{plan_command(recipe)}` says what it takes. `make quickstart` shows the method on a "
        "CPU."
    ]


def plan_command(recipe: Recipe) -> str:
    """The command that plans this recipe: make's name for its file, as the Makefile's `recipe` function reads it."""
    name = recipe.name
    for pattern, made in MAKE_NAMES:
        if found := re.fullmatch(pattern, name):
            return f"make plan-{made.format(*found.groups())}"
    return f"agenttuning plan {recipe.path}"


def _wanted(recipe: Recipe, data_paths: dict[str, Path]) -> tuple[list[str], list[tuple[str, str, str]]]:
    """Missing local things, and (kind, id, revision) of what the Hub must give."""
    from agenttuning.data.lock import LOCK, locked_revision
    from agenttuning.data.sources import load_card

    missing: list[str] = []
    remote: list[tuple[str, str, str]] = []
    model, revision = recipe.values["model_name_or_path"], recipe.values.get("model_revision") or "main"
    if not model_size.is_local(model):
        remote.append(("model", model, revision))
    elif not (Path(model) / "config.json").is_file():
        make = "; `make base-tiny` makes it" if "tiny" in f"{model}{recipe.name}" else ""
        missing.append(f"model: the folder {model} holds no config.json{make}.")
    if problem := template_problem(recipe):
        missing.append(problem)
    cards, damaged = recipe.root / "data_cards", None
    for name in recipe.mixture.sources:
        card = load_card(name, cards)
        if name in data_paths:
            if not Path(data_paths[name]).exists():
                missing.append(f"data: {name} was to be read from {data_paths[name]} (--data), which does not exist.")
        elif card.hub_id:
            try:
                remote.append(("dataset", card.hub_id, locked_revision(card, cards / LOCK)))
            except UserError as error:  # the same for each source that needs it: told once
                damaged = f"lock file: {error}."
        elif not (recipe.root / card.path).exists():
            make = f"; `{card.made_by}` makes it" if card.made_by else ""
            missing.append(f"data: {name} is read from {card.path}, which does not exist{make}.")
    return missing + [damaged] * (damaged is not None), remote


def template_problem(recipe: Recipe) -> str | None:
    """Why the model has no chat template to follow, as far as a local folder or the cache can tell without a download;
    None where there is nothing against it. What is not here yet is found out when its tokenizer is loaded.
    """
    model, revision = recipe.values["model_name_or_path"], recipe.values.get("model_revision") or "main"
    folder = Path(model) if model_size.is_local(model) else snapshot("model", model, revision)
    if recipe.mixture.chat_format != "tokenizer" or folder is None or not (folder / "tokenizer.json").is_file():
        return None
    if (folder / "chat_template.jinja").is_file():
        return None
    try:
        stated = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8")).get("chat_template")
    except (OSError, ValueError, AttributeError):
        stated = None
    if isinstance(stated, str) and stated.strip():
        return None
    return (
        f"chat template: mixture.chat_format is tokenizer, and the tokenizer of {model} carries no chat template, so "
        "there is no format to train in. Use an instruct model's tokenizer, or mixture.chat_format: llama2."
    )


def _hub(wanted: list[tuple[str, str, str]]) -> list[str]:
    absent = [one for one in wanted if not cached(*one)]
    if not absent:
        return []
    names = ", ".join(repository for _, repository, _ in absent)
    token = find_token()
    gated = [one for one in absent if one[0] == "model" and one[1].split("/")[0] in GATED_OWNERS]
    missing = [_no_token(repository) for _, repository, _ in gated] if not token else []
    if os.environ.get("HF_HUB_OFFLINE", "").lower() in TRUE:
        return [*missing, f"Hub: HF_HUB_OFFLINE is set and the cache lacks {names}. Unset it, or fill the cache."]
    host = endpoint()
    if not reachable(host):
        return [
            *missing,
            f"Hub: no connection to {host} within {CONNECT_SECONDS:g} s, and the cache lacks {names}. Connect, set "
            "HF_ENDPOINT to a mirror, or give local copies: model_name_or_path=PATH and --data NAME=PATH.",
        ]
    refused = [_ask(host, *one, token) for one in absent if one[0] == "model" and (token or one not in gated)]
    return missing + [text for text in refused if text]


def _no_token(repository: str) -> str:
    return (
        f"Hub token: {repository} is gated and no token was found (HF_TOKEN or `hf auth login`). Accept the licence at "
        f"https://huggingface.co/{repository} with your account, then run `hf auth login`."
    )


def endpoint() -> str:
    """The Hub's address: HF_ENDPOINT or huggingface.co."""
    return os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")


def _hf_home() -> Path:
    base = os.environ.get("XDG_CACHE_HOME", "~/.cache")
    return Path(os.environ.get("HF_HOME", f"{base}/huggingface")).expanduser()


def find_token() -> str | None:
    """The user's Hub token, where huggingface_hub looks for it; None without one. Never printed."""
    token = os.environ.get("HF_TOKEN") or os.environ.get("HUGGING_FACE_HUB_TOKEN")
    if token:
        return token.strip() or None
    path = Path(os.environ.get("HF_TOKEN_PATH", _hf_home() / "token")).expanduser()
    with contextlib.suppress(OSError, UnicodeDecodeError):
        return path.read_text(encoding="utf-8").strip() or None
    return None


def cached(kind: str, repository: str, revision: str) -> bool:
    """Whether huggingface_hub's cache holds a snapshot of this revision. It may still be incomplete."""
    return snapshot(kind, repository, revision) is not None


def snapshot(kind: str, repository: str, revision: str) -> Path | None:
    """The folder of a revision in huggingface_hub's cache, which may still be incomplete; None without one."""
    hub = Path(os.environ.get("HF_HUB_CACHE", _hf_home() / "hub")).expanduser()
    folder = hub / f"{kind}s--{repository.replace('/', '--')}"
    commit = revision
    with contextlib.suppress(OSError):
        commit = (folder / "refs" / revision).read_text(encoding="utf-8").strip()
    found = folder / "snapshots" / commit
    return found if found.is_dir() and any(found.iterdir()) else None


def reachable(address: str) -> bool:
    """Whether a TCP connection to the address, or to the proxy in front of it, opens in CONNECT_SECONDS."""
    parts = urllib.parse.urlsplit(address)
    if not urllib.request.proxy_bypass(parts.hostname or ""):
        proxy = urllib.request.getproxies().get(parts.scheme)
        parts = urllib.parse.urlsplit(proxy if "//" in proxy else f"//{proxy}") if proxy else parts
    port = parts.port or (80 if parts.scheme == "http" else 443)
    opened = threading.Event()

    def connect() -> None:
        with contextlib.suppress(OSError), socket.create_connection((parts.hostname, port), CONNECT_SECONDS):
            opened.set()

    # the thread bounds the name look-up as well, which a socket's timeout does not
    thread = threading.Thread(target=connect, daemon=True)
    thread.start()
    thread.join(CONNECT_SECONDS)
    return opened.is_set()


class _StayHere(urllib.request.HTTPRedirectHandler):
    """Do not follow redirects: the token must not travel to another host, and a redirect already means "granted"."""

    def redirect_request(self, *_: object) -> None:
        return None


def _ask(host: str, kind: str, repository: str, revision: str, token: str | None) -> str | None:
    """One HEAD for config.json: what the Hub says about access, or None when it says nothing against it."""
    request = urllib.request.Request(f"{host}/{repository}/resolve/{revision}/config.json", method="HEAD")
    if token:
        request.add_unredirected_header("Authorization", f"Bearer {token}")
    try:
        urllib.request.build_opener(_StayHere).open(request, timeout=ANSWER_SECONDS).close()
    except urllib.error.HTTPError as error:
        if error.code in (401, 403):
            return (
                f"Hub access: {host} refuses {repository} to this {'token' if token else 'machine (no token)'} "
                f"(HTTP {error.code}). Visit https://huggingface.co/{repository}, accept the licence, `hf auth login`."
            )
        if error.code == 404:
            return f"Hub: {host} has no {kind} {repository} at revision {revision} (HTTP 404)."
    except OSError:
        return None  # slow rather than absent: the download itself retries
    return None
