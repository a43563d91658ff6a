from .method import Method


def dashed(name: str) -> str:
    return name.replace("_", "-")


def embedded_model(method: Method) -> str:
    return method.embedded_model


def parse_options(method, texts):
    return method.parsed(texts or [])
