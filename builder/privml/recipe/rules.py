"""The rules of `lint` as data: the requirement, and the public incident that motivates it.

Rules of stage ``read`` (`readrules`) apply while a recipe is read (``models``, ``consistency``, ``loader``) and
always end in exit 3. Rules of stage ``judge`` (`judgerules`) are applied by ``lint`` to readable recipes. Rules of
stage ``guest`` (`guestrules`) check the guest's own files below ``images``, also before every build (``guestfiles``).
"""

from __future__ import annotations

from privml.recipe.guestrules import GUEST_RULES
from privml.recipe.judgerules import JUDGE_RULES
from privml.recipe.readrules import READ_RULES

RULES = {rule.id: rule for rule in (*READ_RULES, *JUDGE_RULES, *GUEST_RULES)}
