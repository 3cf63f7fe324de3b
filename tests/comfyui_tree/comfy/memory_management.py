import os

aimdo_enabled = False


def available_memory():
    """Free bytes of this machine; overridden by TREE_AVAILABLE."""
    pretended = os.environ.get("TREE_AVAILABLE")
    return int(pretended or os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
