"Statistics over seeds, for the scripts of this folder"
import statistics
from scipy.stats import t as student

def interval(values):
    "Mean and half of the 95% t interval"
    half = student.ppf(0.975, len(values) - 1) * statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else float('nan')
    return statistics.mean(values), half
