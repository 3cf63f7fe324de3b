raise RuntimeError("disabled packs are not imported")
