import comfy.options
from comfy.tree_arguments import LatentPreviewMethod, PerformanceFeature
from comfy.tree_recent_arguments import dynamic_vram_is_wanted, new_recent_parser

__all__ = ["LatentPreviewMethod", "PerformanceFeature"]

parser = new_recent_parser()
parser.add_argument("--cuda-device", default=None)  # or `all`
parser.add_argument("--disable-partner-nodes", action="store_true")
parser.add_argument("--offline", action="store_true")
args = parser.parse_args(None if comfy.options.args_parsing else [])
args.offline = args.offline or args.disable_api_nodes
args.disable_partner_nodes = args.disable_partner_nodes or args.offline


def enables_dynamic_vram():
    return dynamic_vram_is_wanted(args)
