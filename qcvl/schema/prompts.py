"""What each task asks of the model. The texts are data (``conf/prompts``); they travel with a checkpoint."""

from qcvl.schema.settings import settings
from qcvl.schema.types import Task


@settings
class TaskPrompt:
    """The two texts in front of an answer: the system turn (may be empty) and the user turn beside the images."""

    system: str
    user: str


@settings
class Prompts:
    """One prompt per task."""

    dense: TaskPrompt
    summary: TaskPrompt
    chat: TaskPrompt

    def for_task(self, task: Task) -> TaskPrompt:
        """The prompt of one task."""
        return {"dense": self.dense, "summary": self.summary, "chat": self.chat}[task]
