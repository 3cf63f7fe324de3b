"""Records files in the asset database with ``--enable-assets``."""

from comfy.cli_args import args


class NoAssets:
    enabled = False

    def __init__(self, args):
        self.args = args

    def register_routes(self, app, user_manager):
        pass

    def set_event_sink(self, sink):
        pass


def default_asset_manager():
    if args.enable_assets:
        raise RuntimeError("the tree does not have an asset database")
    return NoAssets(args)
