"""Every exception AnonymousNet raises, on one page.

    AnonymousNetError
    ├── ConfigError                 a setting is unknown, contradictory or out of range
    ├── DataError
    │   ├── AttributeTableError     list_attr_celeba.txt and its sisters do not read as they should
    │   ├── ImageError              a photo cannot be used; it is quarantined, the job goes on
    │   │   ├── EmptyImage              zero bytes
    │   │   ├── UnreadableImage         not a picture, or a format without a decoder here
    │   │   ├── TruncatedImage          the file stops before its picture does
    │   │   ├── ImageTooLarge           more pixels, or memory, than the limit (decompression bombs)
    │   │   ├── ImageTooSlow            decoding takes more CPU time than the limit
    │   │   └── TooManyScans            a JPEG that would take minutes to decode
    │   └── StorageError            a folder, bucket or disk refuses to be read or written
    ├── FaceError                   raised for one photo; it is quarantined, the job goes on
    │   ├── NoFaceFound                 the detector saw no face, so nothing could be protected
    │   ├── ProtectionFailed            a face was seen but could not be replaced: fail closed
    │   │   └── UnpaintedFace               what is to be released still shows what looks like a face
    │   └── WorkerDied                  the process that worked on it died, again and again
    ├── MachineError                memory, disk or a library of this machine fails: no photo's fault, the job ends
    ├── StageError                  a stage was handed, or returned, a batch of the wrong shape or range
    ├── WeightsError                weights are missing, altered, or of another architecture
    ├── CheckpointError             a training checkpoint is missing, damaged or of another run
    ├── ClusterError                no Ray cluster answers, it is too small, or its workers die again and again
    └── PrivacyError
        ├── BudgetExceeded          the release would spend more epsilon than its subject has left
        ├── UnnamedSubject          a budget is set, and no line of release.subjects names the photo
        └── LedgerError             the ledger is locked, truncated or from a newer version

A message says what was expected, what was found, and what to do about it. `DataError`, `ConfigError`,
`WeightsError`, `CheckpointError`, `ClusterError`, `MachineError` and `PrivacyError` end the command line with exit
status 2 (the user can mend them); `ImageError` and `FaceError` never end a job.
"""


class AnonymousNetError(Exception):
    """Base of every error raised on purpose."""


class ConfigError(AnonymousNetError):
    """A setting is unknown, contradictory or out of range."""


class DataError(AnonymousNetError):
    """Input data cannot be used."""


class AttributeTableError(DataError):
    """A CelebA list file does not read as it should."""


class ImageError(DataError):
    """One photo cannot be used."""


class EmptyImage(ImageError):
    """The file has zero bytes."""


class UnreadableImage(ImageError):
    """The file is not a picture, or no decoder for its format is installed."""


class TruncatedImage(ImageError):
    """The file stops before its picture does."""


class ImageTooLarge(ImageError):
    """The picture would decode to more pixels than allowed, or need more memory."""


class ImageTooSlow(ImageError):
    """Decoding the picture takes more CPU time than any camera's file does."""


class TooManyScans(ImageError):
    """A JPEG has more scans, or segments, than any camera or program writes: each costs time."""


class StorageError(DataError):
    """A folder, bucket or disk refuses to be read or written."""


class FaceError(AnonymousNetError):
    """A face in one photo cannot be handled; the photo is quarantined."""


class NoFaceFound(FaceError):
    """The detector saw no face."""


class ProtectionFailed(FaceError):
    """A face was seen but could not be replaced."""


class UnpaintedFace(ProtectionFailed):
    """A photo, as it would be released, shows what looks like a face and was not painted."""


class WorkerDied(FaceError):
    """The process that worked on it died, again and again."""


class MachineError(AnonymousNetError):
    """Memory, disk, a library or a setting of this machine fails; whose photo it was at makes no difference."""


class StageError(AnonymousNetError):
    """A stage was handed, or returned, a batch of the wrong shape or range."""


class WeightsError(AnonymousNetError):
    """Network weights are missing, altered, or of another architecture."""


class CheckpointError(AnonymousNetError):
    """A training checkpoint is missing, damaged or belongs to another run."""


class ClusterError(AnonymousNetError):
    """A Ray cluster is out of reach, too small, or its workers die again and again."""


class PrivacyError(AnonymousNetError):
    """A privacy rule would be broken."""


class BudgetExceeded(PrivacyError):
    """The release would spend more epsilon than its subject has left."""


class UnnamedSubject(PrivacyError):
    """Nobody knows whose photo it is, and so whose budget it would spend."""


class LedgerError(PrivacyError):
    """The ledger cannot be used as it stands."""
