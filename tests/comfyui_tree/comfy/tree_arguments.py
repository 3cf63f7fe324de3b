"""Arguments of all releases."""

import argparse
import enum


class LatentPreviewMethod(enum.Enum):
    NoPreviews = "none"
    Latent2RGB = "latent2rgb"


class PerformanceFeature(enum.Enum):
    AutoTune = "autotune"


def new_parser():
    parser = argparse.ArgumentParser()
    for flag in ("--cpu", "--lowvram", "--novram", "--highvram", "--gpu-only", "--deterministic",
                 "--disable-api-nodes"):  # fmt: skip
        parser.add_argument(flag, action="store_true")
    parser.add_argument("--front-end-root", default=None)
    parser.add_argument("--default-device", type=int, default=None)
    parser.add_argument("--user-directory", default=None)
    parser.add_argument("--extra-model-paths-config", nargs="+", action="append", default=None)
    parser.add_argument(
        "--preview-method", type=LatentPreviewMethod, default=LatentPreviewMethod.NoPreviews
    )
    parser.add_argument("--fast", nargs="*", type=PerformanceFeature, default=())
    parser.add_argument("--reserve-vram", type=float, default=None)
    return parser
