import argparse
import enum

import comfy.options


class LatentPreviewMethod(enum.Enum):
    NoPreviews = "none"
    Latent2RGB = "latent2rgb"


parser = argparse.ArgumentParser()
for flag in ("--cpu", "--lowvram", "--novram", "--highvram", "--gpu-only"):
    parser.add_argument(flag, action="store_true")
parser.add_argument("--front-end-root", default=None)
parser.add_argument("--deterministic", action="store_true")
parser.add_argument("--cuda-device", type=int, default=None)
parser.add_argument("--default-device", type=int, default=None)
parser.add_argument("--user-directory", default=None)
parser.add_argument("--extra-model-paths-config", nargs="+", action="append", default=None)
args = parser.parse_args(None if comfy.options.args_parsing else [])
args.preview_method = LatentPreviewMethod.NoPreviews
