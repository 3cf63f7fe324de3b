"""Leaves a thread behind."""

import threading

FOREVER = threading.Event()
threading.Thread(target=FOREVER.wait, name="left-behind", daemon=True).start()
NODE_CLASS_MAPPINGS = {}
