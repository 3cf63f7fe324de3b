import comfy.options
from comfy.tree_arguments import LatentPreviewMethod, PerformanceFeature
from comfy.tree_recent_arguments import dynamic_vram_is_wanted, new_recent_parser

__all__ = ["LatentPreviewMethod", "PerformanceFeature"]

parser = new_recent_parser()
parser.add_argument("--cuda-device", type=int, default=None)
args = parser.parse_args(None if comfy.options.args_parsing else [])


def enables_dynamic_vram():
    return dynamic_vram_is_wanted(args)
