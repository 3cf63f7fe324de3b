"""Who notes files in the asset database; nobody, unless ``--enable-assets`` is given."""

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
        raise RuntimeError("this tree has no asset database")
    return NoAssets(args)
