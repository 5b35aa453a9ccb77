"""One folder to a repository of the Hub: one commit on top of the state that was seen, or none.

Large files go first, and nobody sees them; the commit that names them all comes last. So a reader never meets half a
model, whatever its size, and a second run sends only what had not arrived. huggingface_hub's upload_folder is not used
here: where hf_xet is installed, it makes several commits of a large folder, each visible at once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from agenttuning.chat.show import escape
from agenttuning.errors import UserError
from agenttuning.hub import wire
from agenttuning.hub.staged import size

if TYPE_CHECKING:
    from huggingface_hub import CommitOperationAdd, HfApi

# Content sent ahead of the commit at a time, in bytes and files: addresses to send to are asked for per group, and
# expire. Not stated by the Hub; we chose, because 10 GB are two shards of the usual size, and 256 is its own limit.
GROUP_BYTES, GROUP_FILES = 10 * 10**9, 256
ASKED_AT_ONCE = 500  # paths; the Hub takes 1000 (huggingface_hub._commit_api.FETCH_LFS_BATCH_SIZE)
BLANK = frozenset({".gitattributes", ".gitignore", "README.md", "LICENSE"})  # files that the Hub's own form makes
CONFLICT = (409, 412)  # the Hub's answers to a commit whose parent is not the newest
AFTER = (
    "The repository has no half of it: all files become visible in one commit, and those that arrived are not sent "
    "again"
)


@dataclass(frozen=True)
class Uploaded:
    """Where it is now; `changed` says whether this upload made the commit."""

    url: str
    commit: str
    changed: bool


@dataclass
class _Target:
    """A repository with what this upload knows of it. parent: the commit that was its newest when it was looked at.
    files: {name in the repository: what to add}; stale: names to delete.
    """

    api: HfApi
    repository: str
    repo_type: str
    parent: str
    files: dict[str, CommitOperationAdd]
    stale: list[str] = field(default_factory=list)

    @property
    def place(self) -> dict[str, str]:
        return {"repo_id": self.repository, "repo_type": self.repo_type}


def upload(
    folder: Path,
    repository: str,
    private: bool,
    message: str,
    *,
    repo_type: str,
    owned: Callable[[str], bool],
    tag: str | None = None,
    move_tag: bool = False,
    mark: str | None = None,
) -> Uploaded:
    """Make `repository` ("owner/name", repo_type "model" or "dataset") hold the files of `folder`: create it if need
    be, add and replace, and delete those of earlier pushes that are no longer there: the names that `owned` accepts, no
    others. Where it holds them already there is no commit. The tag is set last, on the commit that has the files; one
    that marks another commit moves only with move_tag. mark: a file that every such push leaves; a repository that
    lacks it and has other files that would be replaced or deleted is somebody's other work, and is left alone.

    Raises UserError when there is no token, when the repository is public and should be private or the other way round,
    when it is other work,
    when the tag marks another commit, when somebody else pushes meanwhile, and for each failure of Hub or network,
    after which the repository is as it was and a second run goes on. The folder is only read.
    """
    with wire.talk(f"{repository} was not pushed", AFTER) as api:
        target = _target(api, folder, repository, repo_type, private, owned, mark)
        there = not target.stale and not _differs(target, target.parent)
        marked = _marked(target, tag) if tag else None
        if marked and not move_tag and not (there and marked == target.parent):
            raise UserError(
                f"{repository} was not pushed: its tag {tag} marks commit {marked[:8]}, and it would have to move to "
                "another; whoever loads that tag would get other files; nothing was sent; use a new tag, or delete "
                "this one first"
            )
        commit = target.parent if there else _committed(target, message)
        if tag and marked != commit:
            _mark(target, tag, commit, marked)
        prefix = "" if repo_type == "model" else f"{repo_type}s/"
        return Uploaded(f"{api.endpoint}/{prefix}{repository}", commit, commit != target.parent)


def _target(
    api: HfApi,
    folder: Path,
    repository: str,
    repo_type: str,
    private: bool,
    owned: Callable[[str], bool],
    mark: str | None,
) -> _Target:
    """The repository, made if it was not there, and what has to change in it."""
    from huggingface_hub import CommitOperationAdd

    place = {"repo_id": repository, "repo_type": repo_type}
    wire.patiently(lambda: api.create_repo(**place, private=private, exist_ok=True))
    info = wire.patiently(lambda: api.repo_info(**place))
    if bool(info.private) != private:
        now, asked = ("private", "public") if info.private else ("public", "private")
        raise UserError(
            f"{repository} is {now} and the recipe asks for a {asked} one (publish.private: {str(private).lower()}); "
            f"nothing was sent; change the repository's settings on the Hub, or set publish.private"
        )
    held = {one.rfilename for one in info.siblings or []}
    paths = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    theirs = sorted(name for name in held - BLANK if name in paths or owned(name))
    if mark and mark not in held and theirs:
        raise UserError(
            f"{repository} was made by other means: it has no {mark}, which every push leaves, and {len(theirs)} of "
            f"its files would be replaced or deleted ({escape(', '.join(theirs[:3]))}); nothing was sent; name another "
            "repository in `publish`, or empty this one first"
        )
    files = {name: CommitOperationAdd(name, str(path)) for name, path in paths.items()}
    stale = sorted(held - set(files))
    return _Target(api, repository, repo_type, info.sha, files, list(filter(owned, stale)))


def _committed(target: _Target, message: str) -> str:
    """Send the content, then the commit; returns the commit, which was looked at."""
    from huggingface_hub import CommitOperationDelete

    _send_ahead(target)
    operations = [*target.files.values(), *map(CommitOperationDelete, target.stale)]
    try:
        commit = wire.patiently(
            lambda: (
                target.api.create_commit(
                    **target.place, operations=operations, commit_message=message, parent_commit=target.parent
                ).oid
            ),
            done=lambda: _moved(target),
        )
    except Exception as error:
        # a conflict may be with the first try of this very commit, and the answer to the last try may be lost as well
        unclear = wire.passes(error) or wire.status_of(error) in CONFLICT
        if not unclear or (commit := _moved(target)) is None:
            raise
    if wrong := _differs(target, commit):
        raise UserError(
            f"{target.repository} was pushed, but its commit {commit[:8]} lacks {len(wrong)} of the files or has "
            f"others in their place ({escape(', '.join(wrong[:3]))}); whoever loads it would miss them; a "
            ".gitignore in the repository makes the Hub drop files: mend it and run it again"
        )
    return commit


def _send_ahead(target: _Target) -> None:
    """Send the content of large files, group by group. The Hub says which it has already; small files wait for the
    commit.
    """
    groups, sent, count = list(_groups(target.files.values())), 0, 0
    whole = sum(one.upload_info.size for one in target.files.values())
    for group in groups:
        target.api.preupload_lfs_files(
            target.repository, additions=group, repo_type=target.repo_type, free_memory=False
        )
        sent, count = sent + sum(one.upload_info.size for one in group), count + len(group)
        if len(groups) > 1:
            done = f"{size(sent)} of {size(whole)}, {count:,} of {len(target.files):,} files"
            print(f"{target.repository}: {done} are ready for the commit", flush=True)


def _groups(additions: Iterable[CommitOperationAdd]) -> Iterator[list[CommitOperationAdd]]:
    """In the same order, at most GROUP_FILES at a time, a group closed by the file that reaches GROUP_BYTES."""
    group: list[CommitOperationAdd] = []
    for one in additions:
        group.append(one)
        if len(group) == GROUP_FILES or sum(each.upload_info.size for each in group) >= GROUP_BYTES:
            yield group
            group = []
    if group:
        yield group


def _moved(target: _Target) -> str | None:
    """The newest commit if it is no longer the parent and holds what this upload holds: its own, whose answer got lost.
    None while the parent is the newest. Raises UserError when somebody else's commit is there.
    """
    info = wire.patiently(lambda: target.api.repo_info(**target.place))
    if info.sha == target.parent:
        return None
    left = set(target.stale) & {one.rfilename for one in info.siblings or []}
    if not left and not _differs(target, info.sha):
        return info.sha
    newest = target.api.list_repo_commits(**target.place)[0]
    raise UserError(
        f"{target.repository} was not pushed: somebody else changed the repository at the same time, in commit "
        f"{newest.commit_id[:8]} ({escape(newest.title)[:80]!r} by {escape(', '.join(newest.authors))[:80]}); nothing "
        f"of this push is visible; look at that commit, and run it again to put yours on top of it"
    )


def _differs(target: _Target, commit: str) -> list[str]:
    """The names whose content in that commit is not this folder's, or that it lacks."""
    names, known = list(target.files), {}
    for start in range(0, len(names), ASKED_AT_ONCE):
        paths = names[start : start + ASKED_AT_ONCE]
        found = wire.patiently(
            lambda paths=paths: target.api.get_paths_info(
                target.repository, paths, revision=commit, repo_type=target.repo_type
            )
        )
        known |= {one.path: one for one in found}
    return [name for name, one in target.files.items() if not _equal(one, known.get(name))]


def _equal(mine: CommitOperationAdd, theirs: object) -> bool:
    """Whether a file of this machine is the one that the Hub describes: sha256 for a large one, git's hash if not."""
    if theirs is None or getattr(theirs, "size", None) != mine.upload_info.size:
        return False  # absent, a folder, or another length: no need to read 26 GB
    if theirs.lfs is not None:
        return theirs.lfs.sha256 == mine.upload_info.sha256.hex()
    with mine.as_file() as file:
        content = file.read()
    return theirs.blob_id == hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _marked(target: _Target, tag: str) -> str | None:
    """The commit that the tag marks; None when there is no such tag."""
    refs = wire.patiently(lambda: target.api.list_repo_refs(**target.place))
    return next((one.target_commit for one in refs.tags if one.name == tag), None)


def _mark(target: _Target, tag: str, commit: str, before: str | None) -> None:
    """Set the tag, and take it from another commit first. Answers can get lost, so the tag is looked at before a
    repeat.
    """
    if before:
        wire.patiently(
            lambda: target.api.delete_tag(**target.place, tag=tag),
            done=lambda: True if _marked(target, tag) != before else None,
        )
    wire.patiently(
        lambda: target.api.create_tag(**target.place, tag=tag, revision=commit),
        done=lambda: True if _marked(target, tag) == commit else None,
    )
