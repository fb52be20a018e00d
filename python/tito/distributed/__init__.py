"""Conversion in parts, on one machine or on many: the same parts, byte for byte, whoever makes them.

Input is scanned for what belongs together; a part is converted as a run of its own by the same core, with its share of
what must be known of the whole; the run is judged once, over all parts, and the parts get their names together.
"""

from tito.distributed.parts import convert_parts

__all__ = ["convert_parts"]
