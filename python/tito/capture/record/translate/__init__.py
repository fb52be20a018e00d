"""Routes on which no engine returns ids, spoken as chat: the request is translated, the chat reply is recorded, and
what comes back is translated again. A request that chat cannot say is refused, never bent."""

from tito.capture.record.translate.chat import Translated
from tito.capture.record.translate.messages import Messages
from tito.capture.record.translate.responses import Responses

__all__ = ["Messages", "Responses", "Translated"]
