"""What ``comfysnap doctor`` finds."""

from comfysnap_server.doctor.diagnosis import examine
from comfysnap_server.doctor.nodes import Probed, ProbeError, probe
from comfysnap_server.doctor.online import check_needs, check_online, check_volume
from comfysnap_server.doctor.symptoms import Level, Symptom

__all__ = [
    "Level",
    "ProbeError",
    "Probed",
    "Symptom",
    "check_needs",
    "check_online",
    "check_volume",
    "examine",
    "probe",
]
