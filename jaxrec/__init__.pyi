from jaxrec.assistant import Assistant as Assistant
from jaxrec.data.tenant import Tenant as Tenant
from jaxrec.data.tenants import read_tenants as read_tenants
from jaxrec.recommenders.flow import open_shop as recommender  # noqa: F401 (a name of the surface)
from jaxrec.verbs import evaluate as evaluate
from jaxrec.verbs import tune as tune

__version__: str
