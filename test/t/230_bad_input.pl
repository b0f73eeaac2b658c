# Bad input is a clear error or a dead letter; nothing is lost, the rest arrives.

use strict;
use warnings;
