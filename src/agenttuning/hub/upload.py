"""One folder to a dataset repository of the Hub: one commit on top of the state that was seen, or none."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING

from agenttuning.chat.show import escape
from agenttuning.errors import UserError
from agenttuning.hub import folder as layout
from agenttuning.preflight import endpoint

if TYPE_CHECKING:
    from huggingface_hub import HfApi

ANSWERS = {
    401: "the token is not accepted; run `hf auth login` with one that may write",
    402: "the account has no room for it; see its billing settings",
    403: "the token may not write there; use a write token of an account that may write to the owner of the repository",
    404: "there is no such place; check the owner in publish.hub_dataset_id, and that the token may see it",
    409: "somebody else changed the repository at the same time; run it again",
    412: "somebody else changed the repository at the same time; run it again",
    413: "it is more than the Hub takes",
    429: "the Hub asks for fewer requests; wait some minutes and run it again",
}
TROUBLE = "the Hub has trouble; run it again later"


@dataclass(frozen=True)
class Uploaded:
    """Where the data is now; `changed` says whether this upload made the commit."""

    url: str
    commit: str
    changed: bool


def upload(folder: Path, repository: str, private: bool, message: str) -> Uploaded:
    """Make `repository` hold the files of `folder`: create it if need be, add and replace, and delete the files of
    earlier pushes that are no longer there (no others).

    Raises UserError when there is no token, when the repository is public and should be private or the other way round,
    and for each failure of Hub or network, after which the repository is as it was and a second run goes on.
    """
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, get_token

    host, token = endpoint(), get_token()
    if token is None:
        raise UserError(
            f"no Hub token was found (HF_TOKEN or `hf auth login`); nothing was sent to {host}; log in with a token "
            f"that may write to {repository}"
        )
    api = HfApi(endpoint=host, token=token)
    try:
        before = _repository(api, repository, private)
        there = {sibling.rfilename for sibling in before.siblings or []}
        files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
        stale = sorted(name for name in there - set(files) if _ours(name))
        commit = api.create_commit(
            repository,
            [
                *(CommitOperationAdd(name, str(path)) for name, path in files.items()),
                *(CommitOperationDelete(name) for name in stale),
            ],
            commit_message=message,
            repo_type="dataset",
            parent_commit=before.sha,
        )
    except UserError:
        raise
    except Exception as error:
        # The client lets its HTTP library's exceptions through, wraps some, and that library changes between releases.
        reason = _reason(error, token)
        if reason is None:
            raise
        raise UserError(
            f"{repository} was not pushed to {host}: {reason}. The repository has no half of it: all files become "
            "visible in one commit, and those that arrived are not sent again"
        ) from error
    return Uploaded(f"{host}/datasets/{repository}", commit.oid, commit.oid != before.sha)


def _repository(api: HfApi, repository: str, private: bool):
    """What the Hub knows of the repository, made if it was not there."""
    api.create_repo(repository, repo_type="dataset", private=private, exist_ok=True)
    info = api.dataset_info(repository)
    if bool(info.private) != private:
        now, asked = ("private", "public") if info.private else ("public", "private")
        raise UserError(
            f"{repository} is {now} and the recipe asks for a {asked} one (publish.private: {str(private).lower()}); "
            f"nothing was sent; change the repository's settings on the Hub, or set publish.private"
        )
    return info


def _ours(name: str) -> bool:
    return name in layout.RECORDS or fnmatch(name, layout.ROWS_PATTERN)


def _reason(error: BaseException, token: str) -> str | None:
    """What went wrong, without the addresses (they can be signed) and without the token; None for a bug of ours."""
    from huggingface_hub.errors import HfHubHTTPError

    chain = list(_causes(error))
    for one in chain:
        if isinstance(one, HfHubHTTPError):
            status = one.response.status_code
            said = escape(" ".join((one.server_message or "").replace(token, "***").split()))[:200]
            words = ANSWERS.get(status, TROUBLE if status >= 500 else "it does not say more")
            return f"it answers {status}{f' ({said})' if said else ''}: {words}"
    for one in chain:
        if type(one).__module__.split(".")[0] in ("httpx", "httpx2"):
            return f"the connection failed ({type(one).__name__}); check the network and run it again"
        if isinstance(one, OSError):
            return f"{one.strerror or type(one).__name__}; run it again once that is mended"
    if isinstance(error, ValueError) and "metadata in README.md" in str(error):
        return f"the Hub refuses the card's header: {escape(str(error).replace(token, '***'))[:300]}"
    if isinstance(error, ValueError):
        return f"it gave an answer that is none of a Hub ({type(error).__name__}); check HF_ENDPOINT and run it again"
    if isinstance(error, RuntimeError):  # hf_xet's, whose text can hold addresses
        return f"the upload of a file failed ({type(error).__name__}); run it again"
    return None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    for _ in range(10):
        if error is None:
            return
        yield error
        error = error.__cause__ or error.__context__
