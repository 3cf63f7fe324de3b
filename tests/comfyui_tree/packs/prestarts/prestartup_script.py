import os

os.environ["COMFYSNAP_TEST_PRESTARTUP"] = "ran"
