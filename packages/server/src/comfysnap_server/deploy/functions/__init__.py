"""The functions of the Modal app: importing one of these modules makes it."""
