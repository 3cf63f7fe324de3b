from hypothesis import settings

# A busy machine is slow at times, which says nothing about the code.
settings.register_profile("comfysnap", deadline=None)
settings.load_profile("comfysnap")
