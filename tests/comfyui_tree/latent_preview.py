from comfy.cli_args import LatentPreviewMethod, args

_default = args.preview_method


def set_preview_method(override=None):
    """Sets the method of one prompt; without a value, the default."""
    known = {method.value: method for method in LatentPreviewMethod}
    args.preview_method = known.get(override, _default)
