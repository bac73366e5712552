"""The one exception whose message is for the user."""


class UserError(ValueError):
    """What a user typed or a file holds is wrong.

    The message is one sentence that names the file or option, the field, the value and the remedy.
    Command lines print it without a traceback and end with 1; anything else keeps its traceback.
    """
