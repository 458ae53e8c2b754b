"""Names that come from clients and configurations and end up in paths: one folder or file, never a way elsewhere."""

__all__ = ["is_plain_name"]


def is_plain_name(name: str) -> bool:
    """Whether a name means an entry of the directory that it is looked up in."""
    return bool(name) and name not in (".", "..") and "/" not in name and "\0" not in name
