from .levels import Level1
def run(l, p, s): raise NotImplementedError
