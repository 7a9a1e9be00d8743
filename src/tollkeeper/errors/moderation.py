"""The errors of moderation. `errors` shows the whole tree of errors, and is where they are imported from."""

from tollkeeper.errors.base import TollkeeperError


class ContentBlocked(TollkeeperError):
    """A rule of the tenant's moderation refuses a request or an answer. `rule` is its name."""

    code = "content_blocked"
    sentence = "The moderation of your tenant blocks this content."

    def __init__(self, rule: str, *, of_answer: bool = False) -> None:
        what = "the model's answer" if of_answer else "this request"
        super().__init__(f"The rule {rule} of your tenant's moderation blocks {what}.")
        self.rule = rule


class ModerationUnavailable(TollkeeperError):
    """A call that has to be checked could not be."""

    code = "moderation_unavailable"
    sentence = "The moderation of your tenant could not check this call. Try again later."
