"""Speed, measured: each module prints one JSON object. Ratios within one run are what counts; absolute figures are this machine's."""
