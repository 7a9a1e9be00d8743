"""Extra parameters: fields of a request that its wire format does not have, such as `top_k` in a chat completion.

The operator's catalog names those that a provider's models take. Whatever they say, the output stays within the limit
that Tollkeeper writes, and their bytes are part of the hold.
"""

import re
from collections.abc import Mapping

from tollkeeper import errors
from tollkeeper.chat import ChatRequest
from tollkeeper.dialects import chat, embeddings, messages, responses
from tollkeeper.dialects.parameters import (
    DROP,
    NO_EXTRA,
    PASS,
    Only,
    Rule,
    Treatment,
    refused_extra,
    unsupported,
)
from tollkeeper.providers.base import CallInput, Model, Wire

_RULES = (chat.PARAMETERS, responses.PARAMETERS, messages.PARAMETERS, embeddings.PARAMETERS)


def _is_treated(rule: Rule) -> bool:
    return isinstance(rule, Only) or (rule if isinstance(rule, Treatment) else rule.treatment) is not PASS


def _plain(name: str) -> str:
    """A name without what some servers ignore in it: case, and how its words are joined."""
    return name.casefold().replace("_", "").replace("-", "").replace(".", "")


_TREATED = frozenset(_plain(name) for rules in _RULES for name, rule in rules.items() if _is_treated(rule))
"""The parameters that Tollkeeper writes, prices, restricts or refuses in one wire format or another."""
_IN_EVERY_CHAT = frozenset(chat.PARAMETERS) & frozenset(responses.PARAMETERS) & frozenset(messages.PARAMETERS)
_COSTLY = re.compile(
    r"bestof|numreturnsequences|numgenerations|candidatecount|numbeams|beamwidth|usebeamsearch"
    r"|maxnewtokens|maxlength|maxtokenstosample|maxgentoks|numpredict|npredict|maxgenlen|maxtokenstogenerate"
    r"|maxlengthtokens|maxdecodetokens|maxoutputtoken|reasoningmaxtokens|thinkingbudget|maxthinkingtokens|numsamples"
    r"|generationconfig|parameters|options|files|fileids|imageurls|videourl|connectors|agentoptions|searchmode"
    r"|forcedsearch|onlinesearch|modeloverride|targetmodel|engine|endpoint|lorarequest|lorapath"
    r"|prompt|promptid|promptembeds|prompttokenids|inputids|chattemplate|prompttemplate|template"
    r"|cachedcontent|datasources|mmprocessorkwargs|maxpixels|minpixels"
    r"|plugins|websearch|enablesearch|searchparameters|searchoptions|builtintools|imageconfig|imagegeneration"
    r"|models|route|provider|preset|lora|loraadapter|adapter|adapterid|deployment|tier|priority|fastmode"
    r"|apikey|apibase|baseurl|apiversion|customllmprovider|userconfig|numretries|extrabody|extraheaders|extraquery"
    r"|deferred|webhook|webhookurl|callback|callbackurl"
    r"|logitsprocessors|kvtransferparams|vllmxargs"
)
"""Parameters of compatible servers and of gateways, as `_plain` names them: for more or longer answers, for input that
is not in the body or larger than it looks there, for tools of the provider, for another model, account, address or
price, for code.
"""


def complaint_about(name: str) -> str | None:
    """Why the catalog may not list an extra parameter of this name; None if it may."""
    if _plain(name) in _TREATED:
        return "Tollkeeper treats this parameter itself, so it cannot be listed"
    if _COSTLY.fullmatch(_plain(name)):
        return "this parameter can change what a call costs or where it goes, so it cannot be listed"
    if name in _IN_EVERY_CHAT:
        return "every wire format has this parameter, so it is not an extra one"
    return None


def passed_extra(model: Model, call_input: CallInput) -> Mapping[str, bytes]:
    """The extra fields of a raw request that are sent to the model, which has its wire format.

    `call_input.dropped` receives those that are dropped. Raises UnsupportedParameter for a field that is neither passed
    on nor dropped.
    """
    extra = call_input.raw.extra if call_input.raw is not None else NO_EXTRA
    return {name: value for name, value in extra.items() if not _is_dropped(model, name, call_input, PASS)}


def require_chat_request(model: Model, call_input: CallInput) -> ChatRequest:
    """The ChatRequest of an input that is translated.

    `call_input.dropped` receives the extra fields that are dropped. Raises UnsupportedParameter for embeddings, for
    several choices, and for an extra field that is not dropped: such a field has a meaning only in the wire format that
    it was written for. Raises InvalidRequest as `CallInput` does.
    """
    if call_input.raw is not None:
        if call_input.raw.wire is Wire.EMBEDDINGS:
            raise errors.UnsupportedParameter("This model makes no embeddings.", parameter="model")
        for name in call_input.raw.extra:
            _is_dropped(model, name, call_input)
    if call_input.choices > 1:
        raise unsupported("n")
    return call_input.chat_request


def _is_dropped(model: Model, name: str, call_input: CallInput, *others: Treatment) -> bool:
    """Whether the field is dropped. Raises UnsupportedParameter unless it is, or has one of the `others`."""
    treatment = model.extra_parameters.get(name)
    if treatment is DROP:
        call_input.dropped.add(name)
        return True
    if treatment not in others:
        raise refused_extra(name)
    return False
