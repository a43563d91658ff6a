"""From a Hub id to a local folder with the files that are needed, from the cache or downloaded."""

import re
from pathlib import Path

from .files import first_line
from .known import MOVED
from .layout import CARD, INDEX, files_in, missing_files, small_files, weight_files

WHAT_TO_GIVE = 'give a folder, a .safetensors or .ckpt file, a Hub id (owner/name), or "tiny" for the embedded model'


def is_hub_id(name: str) -> bool:
    """Whether the name has the form owner/name and is not the path of a weights file."""
    return re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", name) is not None and not name.endswith((".safetensors", ".ckpt"))


def hub_folder(name: str, half: bool, revision: str | None, token: str | None, weights: bool = True) -> Path:
    """A local folder with the needed files of a repository; weights=False: only configs and tokenizer are needed.

    If the cache holds all of them, in either precision, the Hub isn't asked; otherwise they are downloaded. For a
    deleted repository (`known.MOVED`), its new home is tried too. The variables HF_HOME, HF_HUB_OFFLINE and HF_TOKEN
    hold. Raises ValueError, in one line with every repository that was tried.
    """
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import HFValidationError, HTTPError  # HTTPError: there is no connection

    tried = [name, *([MOVED[name]] if name in MOVED else [])]
    small = [INDEX, CARD, "tokenizer*/*"]       # snapshot_download fails if it knows that one of these isn't cached
    for repository in tried:
        try:
            cached = Path(snapshot_download(repository, revision=revision, local_files_only=True, allow_patterns=small))
        except (OSError, HFValidationError):
            continue
        if not missing_files(files_in(cached), half, weights):
            return cached
    reasons = []
    for repository in tried:
        try:
            info = HfApi().model_info(repository, revision=revision, token=token)
            listing = {file.rfilename for file in info.siblings}
            if missing := missing_files(listing, half, weights):
                reasons.append(f"{repository} lacks {', '.join(missing)}")
                continue
            wanted = [file for file in listing if file in (*small_files(listing), CARD) or "tokenizer" in file]
            if weights:
                wanted += sum(weight_files(listing, half)[0].values(), [])
            return Path(snapshot_download(repository, revision=revision, token=token, allow_patterns=wanted))
        except (OSError, HTTPError, HFValidationError) as error:
            reasons.append(f"{repository}: {hub_reason(error)}")
    raise ValueError(f"{name!r} is neither a folder nor a file here, and the Hub doesn't give it "
                     f"({'; '.join(reasons)}): {WHAT_TO_GIVE}")


def hub_reason(error: Exception) -> str:
    """Why the Hub doesn't give a repository, in one line."""
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    reasons = {GatedRepoError: "accept its terms on its page, and give a token",
               RepositoryNotFoundError: "not found; if it is private, give a token",
               RevisionNotFoundError: "it has no such revision"}
    return next((words for kind, words in reasons.items() if isinstance(error, kind)), first_line(error))
