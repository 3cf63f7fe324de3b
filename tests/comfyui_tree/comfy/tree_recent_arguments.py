"""Arguments that were added between 0.3.64 and 0.33."""

from comfy.tree_arguments import new_parser


def new_recent_parser():
    parser = new_parser()
    for flag in ("--enable-dynamic-vram", "--disable-dynamic-vram", "--disable-pinned-memory",
                 "--disable-nvml-pressure", "--use-ck-attention", "--enable-assets"):  # fmt: skip
        parser.add_argument(flag, action="store_true")
    parser.add_argument("--vram-headroom", type=float, default=0)
    return parser


def dynamic_vram_is_wanted(args):
    disabled = (
        args.disable_dynamic_vram or args.highvram or args.gpu_only or args.novram or args.cpu
    )
    return args.enable_dynamic_vram or not disabled
