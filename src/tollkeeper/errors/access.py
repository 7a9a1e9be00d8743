"""The errors of access. `errors` shows the whole tree, and is where they are imported from."""

from tollkeeper.errors.base import TollkeeperError


class AccessError(TollkeeperError):
    """The caller may not do this."""


class Unauthenticated(AccessError):
    code = "unauthenticated"
    sentence = "The API key or token is missing, invalid, expired or revoked. Log in again, or use another key."


class InvalidCredentials(AccessError):
    code = "invalid_credentials"
    sentence = "The username or the password is wrong."


class SignOnRefused(AccessError):
    code = "sign_on_refused"
    sentence = "The single sign-on is not valid. Start again."


class InvalidTotpCode(InvalidCredentials):
    code = "invalid_totp_code"
    sentence = "The code is wrong, or was used before. Wait for the next one."


class TotpRequired(AccessError):
    code = "totp_required"
    sentence = "This account has a second factor. Send a code of it as `totp`, or a recovery code."


class TotpEnrolmentRequired(AccessError):
    code = "totp_enrolment_required"
    sentence = "Operators need a second factor here. Set one up: POST /auth/totp, then POST /auth/totp/confirm."


class InvalidLink(AccessError):
    code = "invalid_link"
    sentence = "This link is unknown, or was used before, or has ended. Ask an administrator for a new one."


class Forbidden(AccessError):
    code = "forbidden"
    sentence = "Your role does not allow this."


class NotInGroup(Forbidden):
    """It does not disclose whether the group exists."""

    code = "not_in_group"
    sentence = "You are not a member of the group that this request names."


class TagRefused(AccessError):
    code = "tag_refused"
    sentence = "This request names a tag or a value that your tenant has not declared, or lacks one that it requires."


class StepUpRequired(AccessError):
    code = "step_up_required"
    sentence = "This needs a fresh login. Log in again, and repeat the request with the new token."


class NotFound(AccessError):
    code = "not_found"
    sentence = "There is nothing with this name or id."


class ChargeArchived(NotFound):
    """The id of a charge tells its month; whether there was such a charge is not looked up."""

    code = "charge_archived"
    sentence = "The charges of this month are archived: they can no longer be shown, refunded or corrected."


class ModelNotFound(NotFound):
    sentence = "No model with that name. GET /v1/models lists them."


class ModelSwitchedOff(ModelNotFound):
    code = "model_switched_off"
    sentence = "The operator has switched this model off. GET /v1/models lists those that can be called."
