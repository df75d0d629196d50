"""The one exception of the embedded stack: a sentence that tells the developer what to do."""


class StackError(Exception):
    """Something the developer can fix; the message says what and how. No traceback is needed."""
