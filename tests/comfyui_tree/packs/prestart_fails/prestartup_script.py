raise OSError("prestartup broken on purpose")
