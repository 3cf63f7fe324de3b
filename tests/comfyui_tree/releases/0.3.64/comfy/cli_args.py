import comfy.options
from comfy.tree_arguments import LatentPreviewMethod, PerformanceFeature, new_parser

__all__ = ["LatentPreviewMethod", "PerformanceFeature"]

parser = new_parser()
parser.add_argument("--cuda-device", type=int, default=None)
args = parser.parse_args(None if comfy.options.args_parsing else [])
