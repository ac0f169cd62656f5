"""What is on the hub, asked once and at once."""

from __future__ import annotations

from mmerank.errors import first_line

# Longer than any answer takes; without one, the libraries below say what is wrong.
HUB_TIMEOUT_S = 5.0
NO_ANSWER = "the hub gives no answer"


def asked_of_hub(name: str, revision: str | None, file: str, *, of: str = "model") -> str:
    """Ask the hub once for a file of a repository, where the libraries below would ask again and again.

    Args:
        name: Of the repository.
        revision: Branch, tag or commit; None for the newest.
        file: Its name; without one that is there, a data set is a data set all the same.
        of: `model` or `dataset`.

    Returns:
        Why there is none; empty where there is.
    """
    from huggingface_hub import errors as hub
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    try:
        get_hf_file_metadata(hf_hub_url(name, file, revision=revision, repo_type=of), timeout=HUB_TIMEOUT_S)
    except hub.EntryNotFoundError:
        return "" if of == "dataset" else f"it has no {file}, so it is not a checkpoint of transformers"
    except Exception as error:  # the client below has changed, and its errors with it
        return reason_of(error)
    return ""


def reason_of(error: Exception) -> str:
    """What an error of huggingface_hub says of a repository.

    Args:
        error: Any that it raises.

    Returns:
        One line; begins with `NO_ANSWER` where it is not one of those that the hub answers with.
    """
    from huggingface_hub import errors as hub

    if isinstance(error, hub.GatedRepoError):
        return "access must be granted on its page first, and `hf auth login` done"
    if isinstance(error, hub.RepositoryNotFoundError):
        return "no such repository; of a private one, `hf auth login` first"
    if isinstance(error, hub.RevisionNotFoundError):
        return "no such revision"
    return f"{NO_ANSWER}: {first_line(error)}"
