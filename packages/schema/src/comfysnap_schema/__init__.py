"""The API contract of comfysnap: what travels between clients, the gateway and the engines."""
