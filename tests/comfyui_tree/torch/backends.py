class cudnn:
    benchmark = False

    @staticmethod
    def is_available():
        return True
